"""Rotary positions: each pair of a head's features turns by an angle that grows with position.

Source: Su et al. 2021, arXiv 2104.09864, section 3.2.2; feature i is paired with i + head_size/2,
as in Llama's published weights. Angles are computed where they are used, in fp32: no buffer can be
left unfilled after a build on meta, and none loses precision when a model is cast to bf16.
"""

import torch
from torch import Tensor


def rotary_angles(
    length: int, head_size: int, theta: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position and pair, each [length, head_size / 2] in fp32."""
    pairs = torch.arange(0, head_size, 2, device=device, dtype=torch.float32)
    positions = torch.arange(length, device=device, dtype=torch.float32)
    angles = torch.outer(positions, theta ** (-pairs / head_size))
    return angles.cos(), angles.sin()


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn [..., length, head_size] by the angles of its positions; dtype and shape stay."""
    left, right = heads.float().chunk(2, dim=-1)
    turned = torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)
    return turned.to(heads.dtype)

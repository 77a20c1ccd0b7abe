"""The norm of all gradients, over stages, shards and copies."""

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from zeropp.runtime.ties import TiedCopies, local_part


def gradient_norm(
    parameters: Iterable[nn.Parameter], copies: TiedCopies, replicas: int, device: torch.device
) -> Tensor:
    """Of the parameters of all ranks; collective, on all of them; scalar, fp32.

    `copies` tells which parameters another rank counts; `replicas` ranks hold the same shards.
    """
    squares = torch.zeros((), device=device)
    for parameter in parameters:
        if parameter.grad is not None and copies.owns(parameter):
            squares += _squares(local_part(parameter.grad))
    dist.all_reduce(squares)
    return (squares / replicas).sqrt()


def _squares(gradient: Tensor) -> Tensor:
    """The sum of a gradient's squares in fp32; of a sparse one, of its summed values."""
    values = gradient.coalesce().values() if gradient.is_sparse else gradient
    values = torch.view_as_real(values.resolve_conj()) if values.is_complex() else values
    return torch.linalg.vector_norm(values, dtype=torch.float32) ** 2

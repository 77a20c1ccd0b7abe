"""The GPT as it is trained and measured: its blocks, what they compute in, its loss."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy

from zeropp.ir.model import GPTConfig
from zeropp.models import gpt_blocks


def meta_blocks(gpt: GPTConfig, compile_with: str) -> list[nn.Module]:
    """The blocks on the meta device, compiled when they first run; `off`: as they are."""
    with torch.device("meta"):
        blocks = gpt_blocks(gpt)
    if compile_with != "off":
        for block in blocks:
            block.compile(backend=compile_with)
    return blocks


def precision_of(name: str) -> MixedPrecisionPolicy:
    """`fp32`, or `bf16`: compute in bf16, sum and reduce in fp32."""
    if name == "fp32":
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross-entropies of all tokens, in fp32."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum")

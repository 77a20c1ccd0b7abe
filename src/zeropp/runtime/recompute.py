"""Activation checkpointing of blocks: keep a block's inputs, run it again in B.

    none        keep what autograd saves
    selective   keep the outputs of matrix products and attention, run the rest again
    full        keep the block's inputs only

A block is run again once for each micro-batch, in its B; what W needs is kept from then on.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from zeropp.ir.program import Recompute

_KEPT = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.linear.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
}


def recomputing(block: nn.Module, how: Recompute) -> Callable[..., Any]:
    """`block`, called so that its backward runs it again as `how` says.

    Random numbers (dropout) are drawn alike in both runs.
    """
    if how is Recompute.NONE:
        return block
    if how is Recompute.FULL:
        return partial(checkpoint, block, use_reentrant=False)
    contexts = partial(create_selective_checkpoint_contexts, _policy)
    return partial(checkpoint, block, use_reentrant=False, context_fn=contexts)


def _policy(context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    kept = op in _KEPT
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

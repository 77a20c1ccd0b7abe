"""A batch cut into micro-batches along its first dimension."""

from typing import NamedTuple

import torch
from torch import Tensor

Nested = Tensor | tuple[Tensor, ...]


class Microbatch(NamedTuple):
    """What one micro-batch feeds to the first stage, and what the loss compares with."""

    inputs: tuple[Tensor, ...]
    targets: Nested


def cut(inputs: Nested, targets: Nested, parts: int) -> list[Microbatch]:
    """`parts` micro-batches whose sizes differ by at most one, larger ones first.

    Raises:
        ValueError: fewer samples than micro-batches, or tensors of different first dimension.
    """
    ins, outs = _as_tuple(inputs), _as_tuple(targets)
    sizes = {tensor.shape[0] for tensor in (*ins, *outs)}
    if len(sizes) != 1:
        raise ValueError(f"batch: inputs and targets differ in their first dimension: {sizes}")
    if min(sizes) < parts:
        raise ValueError(
            f"batch: {min(sizes)} samples cannot fill num_microbatches={parts}; "
            "use a larger batch or fewer micro-batches"
        )
    cut_ins = zip(*(torch.tensor_split(t, parts) for t in ins), strict=True)
    cut_outs = zip(*(torch.tensor_split(t, parts) for t in outs), strict=True)
    return [
        Microbatch(i, o if isinstance(targets, tuple) else o[0])
        for i, o in zip(cut_ins, cut_outs, strict=True)
    ]


def _as_tuple(value: Nested) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)

"""A batch as micro-batches: cut along its first dimension, or given one by one."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Nested = Tensor | tuple[Tensor, ...]
Batch = tuple[Nested, Nested] | list[tuple[Nested, Nested]]


class Microbatch(NamedTuple):
    """What one micro-batch feeds to the first stage, and what the loss compares with."""

    inputs: tuple[Tensor, ...]
    targets: Nested


def microbatches_of(batch: Batch, parts: int) -> list[Microbatch]:
    """`parts` micro-batches.

    Args:
        batch: (inputs, targets), cut into parts whose sizes differ by at most one, larger ones
            first; or a list of `parts` such pairs, which may differ in any dimension.
        parts: B.

    Raises:
        ValueError: fewer samples than micro-batches, a list of another length, or tensors of
            different first dimension.
    """
    if isinstance(batch, list):
        if len(batch) != parts:
            raise ValueError(
                f"batch: a list must hold num_microbatches={parts} pairs (inputs, targets), "
                f"got {len(batch)}"
            )
        return [Microbatch(_as_tuple(inputs), targets) for inputs, targets in batch]
    return _cut(*batch, parts)


def on_device(value: Nested, device: torch.device) -> Nested:
    """The same on `device`."""
    if isinstance(value, tuple):
        return tuple(tensor.to(device) for tensor in value)
    return value.to(device)


def _cut(inputs: Nested, targets: Nested, parts: int) -> list[Microbatch]:
    ins, outs = _as_tuple(inputs), _as_tuple(targets)
    sizes = {tensor.shape[0] for tensor in (*ins, *outs)}
    if len(sizes) != 1:
        raise ValueError(f"batch: inputs and targets differ in their first dimension: {sizes}")
    if min(sizes) < parts:
        raise ValueError(
            f"batch: {min(sizes)} samples cannot fill num_microbatches={parts}; "
            "use a larger batch or fewer micro-batches"
        )
    cut_ins, cut_outs = _split(ins, parts), _split(outs, parts)
    return [
        Microbatch(i, o if isinstance(targets, tuple) else o[0])
        for i, o in zip(cut_ins, cut_outs, strict=True)
    ]


def _split(tensors: Sequence[Tensor], parts: int) -> list[tuple[Tensor, ...]]:
    return list(zip(*(torch.tensor_split(t, parts) for t in tensors), strict=True))


def _as_tuple(value: Nested) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)

"""What a step is fed with: a batch as micro-batches, and the constants of the step.

Constants of a step: tensors, such as masks, that blocks need and that no micro-batch changes.

A block asks for one by a keyword-only argument of its `forward`. Pipeline rank 0 gives them with
the batch; they are sent once a step to the other ranks, not from stage to stage with every
micro-batch. They get no gradient.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy

from zeropp.runtime.shard import compute_dtype

Nested = Tensor | tuple[Tensor, ...]
Batch = tuple[Nested, Nested] | list[tuple[Nested, Nested]]
Constants = Mapping[str, Tensor]


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


def constants_of(block: nn.Module) -> dict[str, bool]:
    """The constants that `block` asks for, and whether it has to have each."""
    parameters = inspect.signature(type(block).forward).parameters.values()
    return {
        p.name: p.default is inspect.Parameter.empty
        for p in parameters
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    }


class ConstantSender:
    """Shares a step's constants along one pipeline.

    Args:
        blocks: all blocks of the model, which say what they ask for.
        pipeline: its axis of the mesh; the first of its ranks gives.
        device: where the constants are needed.
        precision: the dtype in which blocks compute, to which floating-point constants are cast.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        pipeline: DeviceMesh,
        device: torch.device,
        precision: MixedPrecisionPolicy,
    ) -> None:
        asked = [constants_of(block) for block in blocks]
        self._names = {name for names in asked for name in names}
        self._required = {name for names in asked for name, must in names.items() if must}
        self._pipeline, self._device, self._precision = pipeline, device, precision

    def share(self, given: Constants | None) -> dict[str, Tensor]:
        """What the first rank gave, on every rank; no communication where no block asks.

        Raises:
            ValueError: on every rank, where the first gave other names than the blocks ask for.
        """
        given = given or {}
        if not self._names:
            if given:
                raise ValueError(self._complaint(given))
            return {}
        group = self._pipeline.get_group()
        leads = dist.get_group_rank(group, dist.get_rank()) == 0
        header: list[Any] = [None]
        if leads:
            bad = given.keys() - self._names or self._required - given.keys()
            specs = {name: (t.shape, t.dtype) for name, t in given.items()}
            header = [self._complaint(given) if bad else specs]
        dist.broadcast_object_list(header, group=group, group_src=0)
        if isinstance(header[0], str):
            raise ValueError(header[0])
        return {name: self._share(given.get(name), *spec) for name, spec in header[0].items()}

    def _share(self, given: Tensor | None, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        if given is not None:
            tensor = given.detach().to(self._device).contiguous()
        else:
            tensor = torch.empty(shape, dtype=dtype, device=self._device)
        dist.broadcast(tensor, group=self._pipeline.get_group(), group_src=0)
        return tensor.to(compute_dtype(self._precision, dtype))

    def _complaint(self, given: Constants) -> str:
        wanted = ", ".join(sorted(self._names)) or "none"
        return (
            f"constants: the blocks ask for {wanted} (keyword-only arguments of forward), pipeline "
            f"rank 0 was given {', '.join(sorted(given)) or 'none'}"
        )

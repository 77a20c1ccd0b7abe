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
            first; or a list of such pairs, each a micro-batch, which may differ in any dimension.
        parts: how many to cut.

    Raises:
        ValueError: what is neither, fewer samples than micro-batches, or tensors of different first
            dimension.
    """
    if isinstance(batch, list) and batch:
        return [Microbatch(_as_tuple(inputs), targets) for inputs, targets in map(_pair, batch)]
    return _cut(*_pair(batch), parts)


def _pair(given: Any) -> tuple[Nested, Nested]:
    """Raise ValueError unless this is (inputs, targets), each a tensor or a tuple of tensors."""
    parts = given if isinstance(given, tuple) else ()
    tensors = [t for part in parts for t in (part if isinstance(part, tuple) else (part,))]
    if len(parts) != 2 or not tensors or not all(isinstance(t, Tensor) for t in tensors):
        raise ValueError(
            f"batch: wanted (inputs, targets), each a tensor or a tuple of tensors, or a list of "
            f"such pairs; got {_kind(given)}"
        )
    for tensor in tensors:
        if tensor.dim() == 0:
            raise ValueError("batch: tensors need a dimension of samples, got a scalar")
        if tensor.requires_grad:
            raise ValueError(
                "batch: a tensor requires a gradient, which a pipeline does not give; detach it"
            )
    inputs, targets = given
    return inputs, targets


def _kind(given: Any) -> str:
    if isinstance(given, tuple):
        return f"({', '.join(type(one).__name__ for one in given)})"
    empty = isinstance(given, list) and not given
    return "an empty list" if empty else f"a {type(given).__name__}"


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

    def require_own(self, given: Constants | None) -> None:
        """Raise ValueError if the pipeline's first rank is given others than the blocks' own."""
        names = set(given or {})
        if self._leads and (names - self._names or self._required - names):
            wanted = ", ".join(sorted(self._names)) or "none"
            raise ValueError(
                f"constants: the blocks ask for {wanted} (keyword-only arguments of forward), "
                f"pipeline rank 0 was given {', '.join(sorted(names)) or 'none'}"
            )

    @property
    def _leads(self) -> bool:
        return self._pipeline.get_local_rank() == 0

    def share(self, given: Constants | None) -> dict[str, Tensor]:
        """What the first rank gave, on every rank; no communication where no block asks."""
        given = given or {}
        if not self._names:
            return {}
        header: list[Any] = [None]
        if self._leads:
            header = [{name: (t.shape, t.dtype) for name, t in given.items()}]
        dist.broadcast_object_list(header, group=self._pipeline.get_group(), group_src=0)
        return {name: self._share(given.get(name), *spec) for name, spec in header[0].items()}

    def _share(self, given: Tensor | None, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        if given is not None:
            tensor = given.detach().to(self._device).contiguous()
        else:
            tensor = torch.empty(shape, dtype=dtype, device=self._device)
        dist.broadcast(tensor, group=self._pipeline.get_group(), group_src=0)
        return tensor.to(compute_dtype(self._precision, dtype))

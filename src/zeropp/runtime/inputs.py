"""A batch as micro-batches."""

from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
from torch import Tensor

Nested = Tensor | tuple[Tensor, ...]
Part = tuple[Nested, Nested] | tuple[Nested, Nested, Mapping[str, Tensor]]
Batch = Part | Sequence[Part] | Callable[[], Part | Sequence[Part]]


class Microbatch(NamedTuple):
    """What one micro-batch feeds to the first stage, what the loss compares with, and what blocks
    ask for by name.
    """

    inputs: tuple[Tensor, ...]
    targets: Nested
    keywords: Mapping[str, Tensor]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All of them."""
        return *self.inputs, *_as_tuple(self.targets), *self.keywords.values()

    def on(self, device: torch.device, *, inputs: bool, targets: bool) -> "Microbatch":
        """The same, with what a rank needs of it on its device."""
        wanted = [inputs] * len(self.inputs) + [targets] * len(_as_tuple(self.targets))
        pairs = zip_longest(self.tensors, wanted)
        return _like(self, [t.to(device, non_blocking=True) if here else t for t, here in pairs])

    def nothing(self) -> "Microbatch":
        """One of no samples."""
        return _like(self, [tensor[:0] for tensor in self.tensors])


class Cut(list[Microbatch]):
    """Micro-batches cut of one batch, `whole`, at which a look is cheaper than at each."""

    whole: Microbatch


def microbatches_of(batch: Batch, parts: int) -> list[Microbatch]:
    """`parts` micro-batches.

    Args:
        batch: (inputs, targets) or (inputs, targets, {name: tensor}), cut into parts whose sizes
            differ by at most one, larger ones first; or a list of such, each a micro-batch, which
            may differ in any dimension; or a function that gives one of these.
        parts: how many to cut.

    Raises:
        ValueError: what is neither, fewer samples than micro-batches, tensors of different first
            dimension, or micro-batches with other names.
    """
    batch = batch() if callable(batch) else batch
    if not isinstance(batch, list) or not batch:
        return _cut(_checked(batch), parts)
    found = [_checked(part) for part in batch]
    for microbatch in found:
        if microbatch.keywords.keys() != found[0].keywords.keys():
            raise ValueError("batch: all micro-batches must name the same tensors")
    return found


def _checked(given: Any) -> Microbatch:
    """Raise ValueError unless this is (inputs, targets), each a tensor or a tuple of tensors, and,
    perhaps, tensors by name.
    """
    parts: tuple[Any, ...] = given if isinstance(given, tuple) else ()
    names = parts[2:] and isinstance(parts[-1], Mapping)
    *pair, named = parts if names else (*parts, {})
    tensors = [t for part in pair for t in (part if isinstance(part, tuple) else (part,))]
    tensors += named.values()
    if len(pair) != 2 or not tensors or not all(isinstance(t, Tensor) for t in tensors):
        raise ValueError(
            f"batch: wanted (inputs, targets), each a tensor or a tuple of tensors, and perhaps a "
            f"dict of tensors by name, or a list of such; got {kind_of(given)}"
        )
    for tensor in tensors:
        if tensor.dim() == 0:
            raise ValueError("batch: tensors need a dimension of samples, got a scalar")
        if tensor.requires_grad:
            raise ValueError(
                "batch: a tensor requires a gradient, which a pipeline does not give; detach it"
            )
    return Microbatch(_as_tuple(pair[0]), pair[1], dict(named))


def kind_of(given: Any) -> str:
    """In words."""
    if isinstance(given, Tensor):
        return f"a tensor {given.dtype} {list(given.shape)}"
    if isinstance(given, tuple):
        return f"({', '.join(type(one).__name__ for one in given)})"
    empty = isinstance(given, list) and not given
    return "an empty list" if empty else f"a {type(given).__name__}"


def _cut(whole: Microbatch, parts: int) -> list[Microbatch]:
    sizes = {tensor.shape[0] for tensor in whole.tensors}
    if len(sizes) != 1:
        raise ValueError(f"batch: its tensors differ in their first dimension: {sizes}")
    if min(sizes) < parts:
        raise ValueError(
            f"batch: {min(sizes)} samples cannot fill num_microbatches={parts}; "
            "use a larger batch or fewer micro-batches"
        )
    cut = zip(*(torch.tensor_split(tensor, parts) for tensor in whole.tensors), strict=True)
    found = Cut(_like(whole, tensors) for tensors in cut)
    found.whole = whole
    return found


def _like(whole: Microbatch, tensors: Sequence[Tensor]) -> Microbatch:
    """These in the places that others have in `whole`."""
    ins, names = len(whole.inputs), list(whole.keywords)
    inputs, targets = tensors[:ins], tensors[ins : len(tensors) - len(names)]
    return Microbatch(
        tuple(inputs),
        tuple(targets) if isinstance(whole.targets, tuple) else targets[0],
        dict(zip(names, tensors[len(tensors) - len(names) :], strict=True)),
    )


def _as_tuple(value: Nested) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)

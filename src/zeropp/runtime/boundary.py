"""What travels between stages, found by running the blocks on the meta device.

Every rank can do this alone, for any micro-batch shape, before the first real message; so no shape
is ever sent, and both ends of a channel allocate the same buffers.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy

from zeropp.runtime.block import Block, Draw, Tensors, require_tensors, run_blocks
from zeropp.runtime.keywords import Derived, Named
from zeropp.runtime.shard import compute_dtype


class TensorSpec(NamedTuple):
    """Shape and dtype of one tensor that travels, whether a gradient travels back, and strides;
    None: contiguous, or elements that share memory.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    differentiable: bool
    strides: tuple[int, ...] | None = None

    @classmethod
    def of(cls, tensor: Tensor) -> "TensorSpec":
        """Of a tensor that is there."""
        own = not tensor.is_contiguous() and _apart(tensor)
        strides = tensor.stride() if own else None
        return cls(tuple(tensor.shape), tensor.dtype, tensor.requires_grad, strides)

    def empty(self, device: torch.device) -> Tensor:
        """A buffer for it."""
        return torch.empty(self.shape, dtype=self.dtype, device=device)

    def arrived(self, tensor: Tensor) -> Tensor:
        """What was received, as if it had been made here: a layer keeps a copy of what is not
        contiguous, which may then be changed in place.
        """
        if self.strides is not None:
            tensor = tensor.new_empty_strided(self.shape, self.strides).copy_(tensor)
        return tensor.requires_grad_(self.differentiable)


def _apart(tensor: Tensor) -> bool:
    """Whether, by its strides, no two elements share memory."""
    extent = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride < extent:
            return False
        extent += stride * (size - 1)
    return True


Specs = tuple[TensorSpec, ...]
_Key = tuple[Specs, frozenset[tuple[str, TensorSpec]], bool]  # inputs, by name, autocast


class NotOnMetaError(ValueError):
    """A block does not run on the meta device."""


class Boundaries:
    """The specs of every stage's input, by micro-batch shape.

    Args:
        blocks: all blocks of the model, on any device; only their structure is kept.
        stages: for each stage, the indices of its blocks.
        device: where they compute.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        stages: Sequence[range],
        precision: MixedPrecisionPolicy,
        device: torch.device,
        derived: Derived | None = None,
    ) -> None:
        self._precision, self._device, self._derived = precision, device, derived or {}
        self._stages = [
            [Block(i, skeleton(i, blocks[i], precision)) for i in stage] for stage in stages
        ]
        self._known: dict[_Key, tuple[Specs, ...]] = {}

    def of(self, inputs: Tensors, named: Mapping[str, Tensor]) -> tuple[Specs, ...]:
        """For each stage, the specs of what it receives when the first stage is given `inputs`.

        Raises:
            NotOnMetaError: a block does not run on the meta device.
        """
        key = self._key(inputs, named)
        if key not in self._known:
            self._known[key] = tuple(self._walk(*key[:2]))
        return self._known[key]

    def knows(self, inputs: Tensors, named: Mapping[str, Tensor]) -> bool:
        """Whether `of` has nothing to find."""
        return self._key(inputs, named) in self._known

    def learn(self, inputs: Tensors, named: Mapping[str, Tensor], found: tuple[Specs, ...]) -> None:
        """Let `of` give what was found otherwise."""
        self._known[self._key(inputs, named)] = found

    def _key(self, inputs: Tensors, named: Mapping[str, Tensor]) -> "_Key":
        specs = frozenset((name, TensorSpec.of(tensor)) for name, tensor in named.items())
        autocast = torch.is_autocast_enabled(self._device.type)
        return tuple(map(TensorSpec.of, inputs)), specs, autocast

    def _walk(self, specs: Specs, tensors: frozenset[tuple[str, TensorSpec]]) -> list[Specs]:
        meta = torch.device("meta")
        empty = {name: spec.empty(meta) for name, spec in tensors}
        named = Named(empty, self._derived, Draw(0, 0, 0).seeding)
        walked = []
        for blocks in self._stages[:-1]:
            walked.append(specs)
            inputs = tuple(spec.arrived(spec.empty(meta)) for spec in specs)
            specs = self._through(blocks, inputs, named)
        return [*walked, specs]

    def _through(self, blocks: Sequence[Block], inputs: Tensors, named: Named) -> Specs:
        """What a stage gives; the user's generators are left alone."""
        for block in blocks:
            try:
                with torch.compiler.set_stance("force_eager"), torch.random.fork_rng([]):
                    inputs = run_blocks([block], inputs, named, self._precision)
            except Exception as error:
                raise NotOnMetaError(
                    f"block {block.index} does not run on the meta device, by which the shapes "
                    f"between stages are found: {error}"
                ) from error
        require_tensors(blocks[-1], inputs)
        return tuple(TensorSpec.of(tensor) for tensor in inputs)


def skeleton(index: int, block: nn.Module, precision: MixedPrecisionPolicy) -> nn.Module:
    """A copy of the block whose parameters and buffers are on the meta device, without hooks.

    One that cannot be copied is replaced by one that says so when it is called.
    """
    memo: dict[int, Any] = {}
    for parameter in block.parameters():
        dtype = compute_dtype(precision, parameter.dtype)
        empty = torch.empty_like(parameter, device="meta", dtype=dtype)
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for buffer in block.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    try:
        copied = copy.deepcopy(block, memo)
    except Exception as error:
        return _Uncopied(f"block {index} cannot be copied: {error}")
    for module in copied.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks):
            hooks.clear()
    return copied


class _Uncopied(nn.Module):
    """In the place of a block that cannot be copied, because it holds a lock, say."""

    def __init__(self, why: str) -> None:
        super().__init__()
        self._why = why

    def forward(self, *_: Any) -> Any:
        raise RuntimeError(self._why)

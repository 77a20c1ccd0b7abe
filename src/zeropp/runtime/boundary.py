"""What travels between stages, found by running the blocks on the meta device.

Every rank can do this alone, for any micro-batch shape, before the first real message; so no shape
is ever sent, and both ends of a channel allocate the same buffers.
"""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy

from zeropp.runtime.inputs import Constants
from zeropp.runtime.shard import compute_dtype
from zeropp.runtime.stage import Block, Tensors, run_blocks


class TensorSpec(NamedTuple):
    """Shape and dtype of one tensor that travels, and whether a gradient travels back."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    differentiable: bool

    @classmethod
    def of(cls, tensor: Tensor) -> "TensorSpec":
        """Of a tensor that is there."""
        return cls(tuple(tensor.shape), tensor.dtype, tensor.requires_grad)

    def empty(self, device: torch.device) -> Tensor:
        """A buffer for it."""
        return torch.empty(self.shape, dtype=self.dtype, device=device)


Specs = tuple[TensorSpec, ...]


class Boundaries:
    """The specs of every stage's input, by micro-batch shape.

    Args:
        blocks: all blocks of the model, on any device; only their structure is kept.
        stages: for each stage, the indices of its blocks.
        precision: the dtype in which blocks compute.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        stages: Sequence[range],
        precision: MixedPrecisionPolicy,
    ) -> None:
        self._precision = precision
        skeletons = [[skeleton(blocks[i], precision) for i in stage] for stage in stages]
        self._stages = [[Block.of(block) for block in stage] for stage in skeletons]
        self._known: dict[tuple[Specs, frozenset[tuple[str, TensorSpec]]], tuple[Specs, ...]] = {}

    def of(self, inputs: Tensors, constants: Constants) -> tuple[Specs, ...]:
        """For each stage, the specs of what it receives when the first stage is given `inputs`.

        Raises:
            ValueError: a block does not run on the meta device.
        """
        named = frozenset((name, TensorSpec.of(tensor)) for name, tensor in constants.items())
        key = tuple(TensorSpec.of(tensor) for tensor in inputs), named
        if key not in self._known:
            self._known[key] = tuple(self._walk(*key))
        return self._known[key]

    def _walk(self, specs: Specs, named: frozenset[tuple[str, TensorSpec]]) -> list[Specs]:
        constants = {name: spec.empty(torch.device("meta")) for name, spec in named}
        walked = []
        for index, blocks in enumerate(self._stages):
            walked.append(specs)
            tensors = tuple(
                spec.empty(torch.device("meta")).requires_grad_(spec.differentiable)
                for spec in specs
            )
            try:
                with torch.compiler.set_stance("force_eager"):
                    outputs = run_blocks(blocks, tensors, constants, self._precision)
            except RuntimeError as error:
                raise ValueError(
                    f"the blocks of stage {index} do not run on the meta device, by which the "
                    f"shapes between stages are found: {error}"
                ) from error
            specs = tuple(TensorSpec.of(tensor) for tensor in outputs)
        return walked


def skeleton(block: nn.Module, precision: MixedPrecisionPolicy) -> nn.Module:
    """A copy of the block whose parameters and buffers are on the meta device."""
    memo: dict[int, Any] = {}
    for parameter in block.parameters():
        dtype = compute_dtype(precision, parameter.dtype)
        empty = torch.empty_like(parameter, device="meta", dtype=dtype)
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for buffer in block.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(block, memo)

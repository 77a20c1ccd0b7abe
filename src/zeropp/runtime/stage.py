"""One stage: its blocks, and what each micro-batch in flight has left on it."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.distributed.fsdp import MixedPrecisionPolicy

from zeropp.ir.program import Recompute
from zeropp.runtime.auxiliary import record_auxiliary_losses
from zeropp.runtime.backward import split_layers
from zeropp.runtime.boundary import Block, Tensors, run_blocks
from zeropp.runtime.constants import Constants
from zeropp.runtime.recompute import recomputing
from zeropp.runtime.recorder import Recorder, Tape
from zeropp.runtime.shard import Parameters

Head = Callable[[Tensors], Tensors]


class StageModule(nn.Module):
    """The blocks of one stage, under their global indices, so that parameter names are global."""

    def __init__(self, blocks: Mapping[int, nn.Module]) -> None:
        super().__init__()
        for index, block in blocks.items():
            self.add_module(str(index), block)

    @property
    def blocks(self) -> Sequence[nn.Module]:
        """The blocks, in forward order."""
        return tuple(self.children())


class _InFlight(NamedTuple):
    """A micro-batch between F and B. The edges keep the graph, not the outputs' data."""

    inputs: Tensors
    edges: tuple[GradientEdge, ...]
    tape: Tape


class Stage:
    """Runs F, B, W and BW of one stage; the parameters must be gathered for all but W.

    It calls its blocks, not the module, whose call would fire FSDP2's hooks.

    Args:
        module: the stage's blocks, already placed.
        parameters: the seam to their sharding.
        precision: the dtype in which blocks compute.
        recompute: what of a block is run again in its B.
    """

    def __init__(
        self,
        module: StageModule,
        parameters: Parameters,
        precision: MixedPrecisionPolicy,
        recompute: Recompute = Recompute.NONE,
    ) -> None:
        self.module = module
        self.parameters = parameters
        self._precision = precision
        self._recorder = Recorder()
        self._in_flight: dict[int, _InFlight] = {}
        self._tapes: dict[int, Tape] = {}
        self._blocks = [Block.of(block, recomputing(block, recompute)) for block in module.blocks]
        self._plain_blocks = [Block.of(block) for block in module.blocks]
        split_layers(module, self._recorder)
        record_auxiliary_losses(module, self._recorder)

    def infer(self, inputs: Tensors, constants: Constants, head: Head | None = None) -> Tensors:
        """Forward without a backward to come: the outputs, or what `head` makes of them."""
        with torch.no_grad(), self._recorder.forward(None):
            outputs = run_blocks(self._plain_blocks, inputs, constants, self._precision)
        with torch.no_grad():
            return outputs if head is None else head(outputs)

    def forward(
        self,
        microbatch: int,
        inputs: Tensors,
        constants: Constants,
        seed: Tensor,
        head: Head | None = None,
    ) -> Tensors:
        """F: the roots from which B will start, which are the outputs or what `head` makes of them.

        Args:
            microbatch: not in flight on this stage yet.
            inputs: leaves; B returns the gradients of those that require one.
            constants: the step's.
            seed: scalar, the gradient of the loss.
            head: on the last stage, the loss; what it returns first is trained.
        """
        tape = Tape(self.parameters.gradients, seed)
        with self._recorder.forward(tape):
            roots = run_blocks(self._blocks, inputs, constants, self._precision)
        if head is not None:
            roots = head(roots)
        edges = tuple(get_gradient_edge(root) for root in roots if root.requires_grad)
        self._in_flight[microbatch] = _InFlight(inputs, edges, tape)
        return tuple(root.detach() for root in roots)

    def auxiliary_losses(self) -> list[Tensor]:
        """Those of the forwards since the last time, scalars in fp32."""
        return self._recorder.take_losses()

    def backward(self, microbatch: int, grad_outputs: Tensors, *, fused: bool) -> Tensors:
        """B, or BW if `fused`: the gradients of the inputs that want one.

        Args:
            microbatch: one that has run F.
            grad_outputs: for each differentiable root, its gradient.
            fused: add the weight gradients too, leaving nothing for W.
        """
        inputs, edges, tape = self._in_flight.pop(microbatch)
        tape.fused = fused
        leaves = [x for x in inputs if x.requires_grad]
        trained = self.parameters.trained()
        found: Sequence[Tensor | None] = [None] * (len(leaves) + len(trained))
        if edges and found:
            with self._recorder.backward(tape):
                found = torch.autograd.grad(
                    edges, [*leaves, *trained], grad_outputs, allow_unused=True
                )
        for parameter, gradient in zip(trained, found[len(leaves) :], strict=True):
            if gradient is not None:  # the split layers' comes later, in W
                self.parameters.gradients.add(parameter, gradient)
        if not fused:
            self._tapes[microbatch] = tape
        pairs = zip(leaves, found, strict=False)
        return tuple(torch.zeros_like(x) if g is None else g for x, g in pairs)

    def weight(self, microbatch: int) -> None:
        """W: add the weight gradients that B left."""
        self._tapes.pop(microbatch).run()

"""One stage: its blocks, and what each micro-batch in flight has left on it.

    none        B finds all that autograd saves
    selective   B finds the outputs of matrix products and attention, and runs the rest again
    full        B finds the blocks' inputs, and runs the blocks again

A block is run again once for each micro-batch, with the same random numbers (dropout); what W needs
is kept from then on.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.utils.checkpoint import (
    checkpoint,
    create_selective_checkpoint_contexts,
    noop_context_fn,
)

from zeropp.ir.program import Recompute
from zeropp.runtime.auxiliary import AuxiliaryLoss
from zeropp.runtime.inputs import Constants, constants_of
from zeropp.runtime.shard import Parameters, compute_dtype
from zeropp.runtime.split import Recorder, Tape, split_layers

Tensors = tuple[Tensor, ...]
Head = Callable[[Tensors], Tensors]

_KEPT = [  # by selective recomputation
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten.linear.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
]


class Block(NamedTuple):
    """A block as it is called, and the constants that it asks for."""

    call: Callable[..., Any]
    constants: frozenset[str]

    @classmethod
    def of(cls, module: nn.Module, recompute: Recompute = Recompute.NONE) -> "Block":
        """`module`, called so that its backward runs again what `recompute` says."""
        return cls(_recomputing(module, recompute), frozenset(constants_of(module)))


def run_blocks(
    blocks: Sequence[Block],
    inputs: Tensors,
    constants: Constants,
    precision: MixedPrecisionPolicy,
) -> Tensors:
    """Feed tensors through blocks; a block that returns a tuple feeds the next one's arguments.

    Floating-point inputs are cast to the dtype in which blocks compute; constants are already.
    """
    if precision.param_dtype is not None:
        inputs = tuple(tensor.to(compute_dtype(precision, tensor.dtype)) for tensor in inputs)
    for block in blocks:
        asked = {name: constants[name] for name in block.constants & constants.keys()}
        outputs: Any = block.call(*inputs, **asked)
        inputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return inputs


def _recomputing(block: nn.Module, how: Recompute) -> Callable[..., Any]:
    if how is Recompute.NONE:
        return block
    selective = partial(create_selective_checkpoint_contexts, _KEPT)
    contexts = selective if how is Recompute.SELECTIVE else noop_context_fn
    return partial(checkpoint, block, use_reentrant=False, context_fn=contexts)


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
        self._graphs: dict[int, tuple[Tensors, list[GradientEdge]]] = {}  # from F until B
        self._tapes: dict[int, Tape] = {}  # from F until W
        self._blocks = [Block.of(block, recompute) for block in module.blocks]
        self._plain_blocks = [Block.of(block) for block in module.blocks]
        split_layers(module, self._recorder)
        for layer in module.modules():
            if isinstance(layer, AuxiliaryLoss):
                layer.recorder = self._recorder

    def infer(self, inputs: Tensors, constants: Constants, head: Head | None = None) -> Tensors:
        """Forward without a backward to come: the outputs, or what `head` makes of them."""
        with torch.no_grad():
            with self._recorder.writing(None):
                outputs = run_blocks(self._plain_blocks, inputs, constants, self._precision)
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
        tape = self._tapes[microbatch] = Tape(self.parameters.gradients, seed)
        with self._recorder.writing(tape):
            roots = run_blocks(self._blocks, inputs, constants, self._precision)
        if head is not None:
            roots = head(roots)
        # edges keep the graph, not the roots' data
        edges = [get_gradient_edge(root) for root in roots if root.requires_grad]
        self._graphs[microbatch] = inputs, edges
        return tuple(root.detach() for root in roots)

    def auxiliary_losses(self) -> list[Tensor]:
        """Those of the forwards since the last time, scalars in fp32."""
        losses, self._recorder.losses = self._recorder.losses, []
        return losses

    def backward(self, microbatch: int, grad_outputs: Tensors, *, fused: bool) -> Tensors:
        """B, or BW if `fused`: the gradients of the inputs that want one.

        Args:
            microbatch: one that has run F.
            grad_outputs: for each differentiable root, its gradient.
            fused: add the weight gradients too, leaving nothing for W.
        """
        inputs, edges = self._graphs.pop(microbatch)
        tape = self._tapes.pop(microbatch) if fused else self._tapes[microbatch]
        tape.fused = fused
        leaves = [x for x in inputs if x.requires_grad]
        trained = self.parameters.trained()
        wanted = [*leaves, *trained]
        found: Sequence[Tensor | None] = [None] * len(wanted)
        if edges and wanted:
            with self._recorder.writing(tape, again=True):
                found = torch.autograd.grad(edges, wanted, grad_outputs, allow_unused=True)
        for parameter, gradient in zip(trained, found[len(leaves) :], strict=True):
            if gradient is not None:  # the split layers' comes later, in W
                self.parameters.gradients.add(parameter, gradient)
        pairs = zip(leaves, found, strict=False)
        return tuple(torch.zeros_like(x) if g is None else g for x, g in pairs)

    def weight(self, microbatch: int) -> None:
        """W: add the weight gradients that B left."""
        self._tapes.pop(microbatch).run()

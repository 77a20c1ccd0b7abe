"""One stage: its blocks, and what each micro-batch in flight has left on it."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.distributed.fsdp import MixedPrecisionPolicy

from zeropp.ir.program import Recompute
from zeropp.runtime.block import Block, Draw, Tensors, buffers_kept, require_tensors, run_blocks
from zeropp.runtime.compat import set_version
from zeropp.runtime.products import split_products
from zeropp.runtime.shard import Parameters
from zeropp.runtime.split import nothing_like, split_layers
from zeropp.runtime.tape import Recorded, Recorder, Tape

Head = Callable[[Tensors], Tensors]
_LOSS = -1  # the number of no block, for which the loss draws


class StageModule(nn.Module):
    """The blocks of one stage, under their global indices, so that parameter names are global; also
    `numbered`, in forward order, where a block that is used again comes again.
    """

    def __init__(self, blocks: Mapping[int, nn.Module]) -> None:
        super().__init__()
        for index, block in blocks.items():
            self.add_module(str(index), block)
        self.numbered = tuple(blocks.items())


class _Flight(NamedTuple):
    """What F leaves for B: where gradients end, and where they start."""

    entered: list[Tensor]  # leaves
    roots: list[GradientEdge]


class _Enter(torch.autograd.Function):
    """A stage's input as an operation's output, which unlike a leaf may be changed in place; its
    gradient, hooks on it included, becomes that of a leaf without memory.
    """

    @staticmethod
    def forward(ctx: Any, leaf: Tensor, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class Stage:
    """Runs F, B, W and BW of one stage; the parameters must be gathered for all but W.

    It calls its blocks, not the module, whose call would fire FSDP2's hooks.

    Args:
        module: the stage's blocks, already placed.
        parameters: the seam to their sharding.
        recompute: what of a block is run again in its B.
        shared: global names of buffers that other stages hold too, which no forward may change.
        tied: numbers of the blocks that share parameters.
    """

    def __init__(
        self,
        module: StageModule,
        parameters: Parameters,
        precision: MixedPrecisionPolicy,
        recompute: Recompute = Recompute.NONE,
        shared: Collection[str] = (),
        tied: Collection[int] = (),
    ) -> None:
        self.module = module
        self._shared = {
            n: b for n, b in module.named_buffers(remove_duplicate=False) if n in shared
        }
        self._as_made = {name: buffer.clone() for name, buffer in self._shared.items()}
        self.parameters = parameters
        self._precision = precision
        self._recorder = Recorder()
        self._flights: dict[int, _Flight] = {}  # from F until B
        self._tapes: dict[int, Tape] = {}  # from F until W
        self._blocks = [
            Block(i, b, self._recorder, recompute, i in tied) for i, b in module.numbered
        ]
        self._changes_inputs: bool | None = None  # None: before its first forward
        split_layers(module, self._recorder)
        split_products(module.numbered, self._recorder)
        for layer in module.modules():
            if isinstance(layer, Recorded):
                layer.recorder = self._recorder

    def infer(self, inputs: Tensors, named: Mapping[str, Any], head: Head | None = None) -> Tensors:
        """Forward without a backward to come: the outputs, or what `head` makes of them, in
        evaluation mode; modes and buffers are left as they were.
        """
        with torch.no_grad(), _evaluating(self.module), buffers_kept(self.module):
            with self._recorder.writing(None):
                outputs = run_blocks(self._blocks, inputs, named, self._precision)
            if head is not None:
                return head(outputs)
        require_tensors(self._blocks[-1], outputs)
        return outputs

    def tried(self, inputs: Tensors, named: Mapping[str, Any], *, run: bool) -> Tensors:
        """What F would give, gathering the parameters for it; nothing is left of it. Without `run`
        they are only gathered, as on other ranks.
        """
        self.parameters.unshard()
        self.parameters.wait()
        try:
            if not run:
                return ()
            with buffers_kept(self.module), self._recorder.writing(None, again=True):
                given, _ = self._entered(inputs)
                draw = Draw(0, 0, 0)
                outputs = run_blocks(self._blocks, given, named, self._precision, draw)
            require_tensors(self._blocks[-1], outputs)
            return tuple(t.detach().requires_grad_(t.requires_grad) for t in outputs)
        finally:
            self.parameters.reshard()

    def forward(
        self,
        microbatch: int,
        inputs: Tensors,
        named: Mapping[str, Any],
        seed: Tensor,
        head: Head | None = None,
        draw: Draw | None = None,
    ) -> Tensors:
        """F: the roots from which B will start, which are the outputs or what `head` makes of them.

        Args:
            inputs: those that require a gradient are leaves, of which B returns the gradients.
            seed: scalar, the gradient of the loss, auxiliary ones included.
            head: on the last stage, the loss; what it returns first is trained.
        """
        tape = self._tapes[microbatch] = Tape(self.parameters.gradients, seed)
        inputs, entered = self._entered(inputs)
        versions = [x._version for x in inputs] if self._changes_inputs is None else []
        with self._recorder.writing(tape):
            numbers = draw or Draw(0, 0, microbatch)
            roots = run_blocks(self._blocks, inputs, named, self._precision, numbers)
            if head is None:
                require_tensors(self._blocks[-1], roots)
            else:
                self._recorder.inside = True  # gradients in the loss are its own doing
                try:
                    with numbers.seeding(_LOSS, roots):
                        roots = head(roots)
                finally:
                    self._recorder.inside = False
        self._require_shared_as_made()
        # edges keep the graph, not the roots' data
        edges = [get_gradient_edge(root) for root in roots if root.requires_grad]
        if self._changes_inputs is None:
            self._changes_inputs = versions != [x._version for x in inputs]
            _require_own_graph(edges, set(self.parameters.trained()))
        self._flights[microbatch] = _Flight(entered, edges)
        return tuple(root.detach().requires_grad_(root.requires_grad) for root in roots)

    def _require_shared_as_made(self) -> None:
        for name, buffer in self._shared.items():
            now = self.module.get_buffer(name)
            if now is not buffer or not torch.equal(now, self._as_made[name]):
                raise ValueError(
                    f"buffer {name} was changed by a forward, and its module is used by several "
                    "stages, which have a copy each; give every stage a module of its own"
                )

    def _entered(self, inputs: Tensors) -> tuple[Tensors, list[Tensor]]:
        """Inputs, and the leaves of their gradients: inputs, once it is known that none changes."""
        given, entered = [], []
        for x in inputs:
            if x.requires_grad:
                where = x = x.detach()
                if self._changes_inputs is not False:
                    where = nothing_like(x)
                    version = x._version
                    x = _Enter.apply(where.requires_grad_(), x)
                    set_version(x, version)
                where.requires_grad_()
                entered.append(where)
            given.append(x)
        return tuple(given), entered

    @property
    def last_block(self) -> int:
        """The index of the block that makes the outputs."""
        return self._blocks[-1].index

    def auxiliary_losses(self) -> list[Tensor]:
        """Those of the forwards since the last time, scalars in fp32."""
        losses, self._recorder.losses = self._recorder.losses, []
        return losses

    def backward(self, microbatch: int, grad_outputs: Tensors, *, fused: bool) -> Tensors:
        """B, or BW if `fused`: the gradients of the inputs that want one, from those of the
        differentiable roots.
        """
        entered, roots = self._flights.pop(microbatch)
        tape = self._tapes.pop(microbatch) if fused else self._tapes[microbatch]
        tape.fused = fused
        trained = self.parameters.trained()
        wanted = [*entered, *trained, self._recorder.anchor]
        starts = [*roots, *tape.auxiliary]
        gradients = [*grad_outputs, *(tape.seed for _ in tape.auxiliary)]
        found: Sequence[Tensor | None] = [None] * len(wanted)
        if starts and wanted:
            with self._recorder.writing(tape, again=True):
                found = torch.autograd.grad(starts, wanted, gradients, allow_unused=True)
        for parameter, gradient in zip(trained, found[len(entered) : -1], strict=True):
            if gradient is not None:  # the split layers' comes later, in W
                self.parameters.gradients.add(parameter, gradient)
        pairs = zip(entered, found, strict=False)
        return tuple(torch.zeros_like(x) if g is None else g for x, g in pairs)

    def drop(self) -> None:
        """Leave nothing of micro-batches in flight, nor of sums."""
        self._flights.clear()
        self._tapes.clear()
        self._recorder.losses.clear()
        self.parameters.drop()

    def weight(self, microbatch: int) -> Tensors:
        """W: add the weight gradients that B left; nothing is returned."""
        self._tapes.pop(microbatch).run()
        return ()


def _require_own_graph(edges: Sequence[GradientEdge], trained: set[nn.Parameter]) -> None:
    """Raise ValueError where a forward used what B would leave without a gradient."""
    nodes, seen = [edge.node for edge in edges], set()
    while nodes:
        node = nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        nodes += [following for following, _ in node.next_functions if following is not None]
        leaf = getattr(node, "variable", None)
        if isinstance(leaf, nn.Parameter) and leaf not in trained:
            raise ValueError(
                f"a parameter of shape {list(leaf.shape)} that is in none of this stage's blocks "
                "takes part in its forward, or in the loss, and would not be trained; make it a "
                "block's own"
            )
        if node.name() == "CheckpointFunctionBackward":
            raise ValueError(
                "a block calls torch.utils.checkpoint with use_reentrant=True, which gives "
                "gradients by backward() only; use use_reentrant=False"
            )


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode meanwhile."""
    modes = [(layer, layer.training) for layer in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training

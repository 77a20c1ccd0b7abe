"""The public face of the engine: a model cut into stages, trained by a program."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.nn.utils import clip_grads_with_norm_

from zeropp.ir.placement import Placement, stage_blocks
from zeropp.ir.program import Program, Recompute
from zeropp.program import (
    forward_only_program,
    require_collectives,
    require_valid,
    without_collectives,
)
from zeropp.runtime.assemble import Model, assemble, require_same_program
from zeropp.runtime.channel import Direct, Transport
from zeropp.runtime.executor import Execution, Feed, Work
from zeropp.runtime.inputs import (
    Batch,
    Constants,
    ConstantSender,
    Microbatch,
    Nested,
    microbatches_of,
    on_device,
)
from zeropp.runtime.instructions import Instruction, instructions
from zeropp.runtime.mesh import (
    PP,
    REPLICATE,
    check_mesh,
    close_mesh,
    data_size,
    default_device,
    own_pipeline,
)
from zeropp.runtime.observer import Observer, Observers
from zeropp.runtime.shard import needs_sharding
from zeropp.runtime.stage import Stage, StageModule, Tensors
from zeropp.runtime.ties import TiedCopies, find_ties, local_part

LossFn = Callable[..., Tensor]


@dataclass(frozen=True)
class StepOutput:
    """What a step or an evaluation returns, the same on every rank.

    Attributes:
        loss: mean of `loss_fn` per token over all micro-batches and data-parallel ranks; scalar,
            fp32.
        tokens: the number of tokens it is the mean of; scalar.
        auxiliary: the same mean of all auxiliary losses together; trained, and not in `loss`.
        metrics: the same mean of each metric asked for.
    """

    loss: Tensor
    tokens: Tensor
    auxiliary: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


class Pipeline:
    """A model laid over ranks, that runs a program.

    Args:
        blocks: the model as a sequence; each maps tensors to tensors, a tuple feeds the next
            block's arguments. The last stage's outputs go to the loss. Tensors may be of any
            dtype; those without gradient travel forward only. A keyword-only argument of a block's
            `forward` is a constant of the step. A parameter that several blocks share stays tied,
            on whichever stages they are. Blocks may be on the meta device; those of this rank are
            then made real on its device and given to `init`.
        loss_fn: `loss_fn(*outputs, targets)`, the sum of the losses of a micro-batch's tokens. The
            pipeline divides by the number of tokens of the whole batch, so micro-batches and ranks
            of different size count by their tokens.
        program: what every rank executes; one with collectives runs without them where nothing is
            sharded.
        mesh: axes (pp, dp_replicate, dp_shard), as `make_mesh` makes it.
        split: number of blocks in each stage; None: the program's, or nearly equal.
        recompute: what of a block is run again in its B; None: the program's, or nothing.
        program_for: makes the program of another number of micro-batches, the same on every rank;
            None: no step may have another number than `program`.
        init: `init(index, block)` fills block number `index`; required for blocks on meta.
        tokens: number of tokens in a micro-batch's targets; None: elements of the (first) target.
        precision: FSDP2's policy: `param_dtype` to compute in, `reduce_dtype` to sum and reduce in.
        timeout: seconds that one action may take before all ranks say where they are and exit.
        device: where to compute; None: where the process group's tensors are.
        transport: what carries tensors between ranks; None: torch.distributed's process groups.
        owns_mesh: destroy the mesh's groups when the pipeline is closed.

    Raises:
        ValueError: a program that fits neither mesh nor model, or has no collectives where
            parameters are sharded; meta blocks without `init`, or a block wrapped by
            `torch.compile`.
        InvalidProgramError: the program breaks a rule.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        loss_fn: LossFn,
        program: Program,
        mesh: DeviceMesh,
        *,
        split: tuple[int, ...] | None = None,
        recompute: str | None = None,
        program_for: Callable[[int], Program] | None = None,
        init: Callable[[int, nn.Module], None] | None = None,
        tokens: Callable[[Nested], Tensor | int] | None = None,
        precision: MixedPrecisionPolicy | None = None,
        timeout: float = 600.0,
        device: torch.device | None = None,
        transport: Transport | None = None,
        owns_mesh: bool = False,
    ) -> None:
        check_mesh(mesh, program.placement.pp_size)
        _require_unwrapped(blocks)
        precision = precision or MixedPrecisionPolicy()
        self.mesh, self.device = mesh, device or default_device()
        self.rank = mesh[PP].get_local_rank()
        self._program_for = program_for
        self._sharded = needs_sharding(data_size(mesh), precision)
        self._loss_fn, self._tokens = loss_fn, tokens or _count_elements
        self.program = self._accepted(program)
        cut = _agreed("split", split, program.split)
        stages = stage_blocks(len(blocks), self.placement.num_stages, cut)
        again = _agreed("recompute", recompute, program.recompute) or Recompute.NONE
        self.ties = find_ties(blocks, stages)
        self._constants = ConstantSender(blocks, mesh[PP], self.device, precision)
        model = Model(blocks, stages, self.ties, init, Recompute(again), precision)
        carried = transport or Direct()
        self._machine = assemble(model, self.placement, mesh, self.device, timeout, carried)
        modules = {s: stage.module for s, stage in self._machine.stages.items()}
        self._copies = TiedCopies(self.ties, self.placement, own_pipeline(mesh), modules)
        self._training = {self.num_microbatches: self._ready(self.program)}
        self._evaluations: dict[int, tuple[Instruction, ...]] = {}
        self._closing = ExitStack()
        if owns_mesh:
            self._closing.callback(close_mesh, mesh, self.modules)
        self._closing.callback(self._machine.close)
        self._closing.callback(self._copies.close)

    @property
    def placement(self) -> Placement:
        """Stage -> rank."""
        return self.program.placement

    @property
    def num_microbatches(self) -> int:
        """B of the program."""
        return self.program.schedule.num_microbatches

    @property
    def modules(self) -> tuple[StageModule, ...]:
        """This rank's stages; their parameters have global names such as `3.attn.q.weight`."""
        return tuple(stage.module for stage in self.stages)

    @property
    def stages(self) -> tuple[Stage, ...]:
        """This rank's stages, as they run."""
        return tuple(self._machine.stages.values())

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """This rank's parameters, under their global names."""
        for module in self.modules:
            yield from module.named_parameters()

    def parameters(self) -> Iterator[nn.Parameter]:
        """This rank's parameters, for an optimizer."""
        return (parameter for _, parameter in self.named_parameters())

    def step(
        self,
        batch: Batch,
        *,
        constants: Constants | None = None,
        observer: Observer | None = None,
    ) -> StepOutput:
        """Forward and backward of all micro-batches; gradients are added to `.grad`, reduced.

        Args:
            batch: (inputs, targets) of this data-parallel rank, each a tensor or a tuple of
                tensors [samples, ...], cut into B micro-batches of nearly equal size; or a list of
                such pairs, each a micro-batch, whose sizes and lengths may differ, of the same
                length on all ranks. Every pipeline rank passes the same.
            constants: what blocks ask for by keyword-only arguments; pipeline rank 0 gives them.
            observer: told of the step's phases: a `Trace`, or the times of an `Adapter`.

        Raises:
            ValueError: the batch does not fit the program, or other constants than the blocks' own.
        """
        count = len(batch) if isinstance(batch, list) else self.num_microbatches
        program = self._program_of(count)
        microbatches = microbatches_of(batch, count)
        tokens = self._total_tokens(microbatches)
        feed = self._feed(microbatches, constants, self._loss, 1.0 / tokens.to(torch.float32))
        held = self._copies.set_aside()
        losses = Execution(self._machine, feed, observer or Observers()).run(program)
        with self._machine.watchdog.during("in the sum of tied parameters' gradients"):
            self._copies.sum_gradients(held)
        return self._output(losses, tokens, ())

    def eval(
        self,
        batch: Batch,
        num_microbatches: int = 1,
        *,
        constants: Constants | None = None,
        metrics: Mapping[str, LossFn] | None = None,
    ) -> StepOutput:
        """The loss of a batch of any size, forward only; gradients are left alone.

        Args:
            batch: as for `step`, but of any size.
            num_microbatches: into how many micro-batches it is cut.
            constants: as for `step`.
            metrics: by name, `metric(*outputs, targets)`, a sum over a micro-batch's tokens; the
                same names on every rank.
        """
        microbatches = microbatches_of(batch, num_microbatches)
        tokens = self._total_tokens(microbatches)
        functions = metrics or {}

        def head(targets: Nested, outputs: Tensors) -> Tensors:
            compared = on_device(targets, self.device)
            values = (function(*outputs, compared).float() for function in functions.values())
            return (*self._loss(targets, outputs), *values)

        results = self._infer(microbatches, head, constants)
        return self._output(results, tokens, tuple(functions))

    def predict(
        self, inputs: Nested, num_microbatches: int = 1, *, constants: Constants | None = None
    ) -> list[Tensors] | None:
        """The last stage's outputs, by micro-batch, on the rank that holds it; None elsewhere."""
        microbatches = microbatches_of((inputs, inputs), num_microbatches)
        outputs = self._infer(microbatches, lambda _, outputs: outputs, constants)
        self._auxiliary()
        self._machine.watchdog.rest()
        return outputs if self.holds_last_stage else None

    @property
    def holds_last_stage(self) -> bool:
        """Whether this rank computes the loss."""
        return self.placement.rank_of(self.placement.num_stages - 1) == self.rank

    def clip_grad_norm_(self, max_norm: float) -> Tensor:
        """Scale all gradients so that their norm over all stages and shards is at most `max_norm`.

        Returns:
            The norm before clipping; scalar, fp32, the same on every rank.
        """
        squares = torch.zeros((), device=self.device)
        for parameter in self.parameters():
            if parameter.grad is not None and self._copies.owns(parameter):
                own = local_part(parameter.grad)
                squares += torch.linalg.vector_norm(own, dtype=torch.float32) ** 2
        with self._machine.watchdog.during("in the all-reduce of the gradient norm"):
            dist.all_reduce(squares)
        self._machine.watchdog.rest()
        norm = (squares / self.mesh[REPLICATE].size()).sqrt()
        clip_grads_with_norm_(self.parameters(), max_norm, norm)
        return norm

    def close(self) -> None:
        """End communication and leave nothing behind; the pipeline cannot run afterwards."""
        self._closing.close()

    def follow(self, program: Program) -> None:
        """Run another order from the next step on; collective, on all ranks.

        Raises:
            ValueError: the program changes more than the order, or ranks were given different ones.
            InvalidProgramError: it breaks a rule.
        """
        for name in ("placement", "schedule.num_microbatches", "split", "recompute"):
            now, wanted = attrgetter(name)(self.program), attrgetter(name)(program)
            if now != wanted:
                what = name.removeprefix("schedule.")
                raise ValueError(f"{what} cannot change while training; make another pipeline")
        self.program = self._accepted(program)
        self._training = {self.num_microbatches: self._ready(self.program)}

    def _accepted(self, program: Program) -> Program:
        """The program as it will run, sound and the same on every rank."""
        require_valid(program)
        if not self._sharded:
            program = without_collectives(program)
        else:
            require_collectives(program)
        require_same_program(program)
        return program

    def _program_of(self, count: int) -> tuple[Instruction, ...]:
        """The instructions of a step of `count` micro-batches."""
        if count not in self._training:
            if self._program_for is None or count < 1:
                raise ValueError(
                    f"batch: a list must hold num_microbatches={self.num_microbatches} pairs "
                    f"(inputs, targets), got {count}"
                )
            self._training[count] = self._ready(self._accepted(self._program_for(count)))
        return self._training[count]

    def _infer(
        self,
        microbatches: list[Microbatch],
        head: Callable[[Nested, Tensors], Tensors],
        constants: Constants | None,
    ) -> list[Tensors]:
        count = len(microbatches)
        if count not in self._evaluations:
            program = forward_only_program(self.program, count)
            self._evaluations[count] = self._ready(program)
        feed = self._feed(microbatches, constants, head, seed=None)
        return Execution(self._machine, feed, Observers()).run(self._evaluations[count])

    def _feed(
        self,
        microbatches: list[Microbatch],
        constants: Constants | None,
        head: Callable[[Nested, Tensors], Tensors],
        seed: Tensor | None,
    ) -> Feed:
        """Every micro-batch with its head, which is bound to its targets once."""
        with self._machine.watchdog.during("in the broadcast of the step's constants"):
            shared = self._constants.share(constants)
        return Feed([Work(m.inputs, partial(head, m.targets)) for m in microbatches], shared, seed)

    def _ready(self, program: Program) -> tuple[Instruction, ...]:
        order = program.actions[self.rank]
        return instructions(order, program.placement, self._machine.stages)

    def _loss(self, targets: Nested, outputs: Tensors) -> Tensors:
        return (self._loss_fn(*outputs, on_device(targets, self.device)).float(),)

    def _total_tokens(self, microbatches: list[Microbatch]) -> Tensor:
        """Tokens of all data-parallel ranks: counted once per pipeline, by its first rank."""
        counts = [self._tokens(m.targets) for m in microbatches] if self.rank == 0 else []
        total = torch.zeros((), dtype=torch.int64, device=self.device)
        for count in counts:
            total += count
        with self._machine.watchdog.during("in the all-reduce of the token count"):
            dist.all_reduce(total)
        return total

    def _auxiliary(self) -> list[Tensor]:
        return [loss for stage in self.stages for loss in stage.auxiliary_losses()]

    def _output(
        self, results: list[Tensors], tokens: Tensor, metrics: tuple[str, ...]
    ) -> StepOutput:
        """Sums over micro-batches and ranks, per token; auxiliary losses come from any rank."""
        totals = torch.zeros(2 + len(metrics), device=self.device)
        for values in results:
            totals[1:] += torch.stack(values)
        for loss in self._auxiliary():
            totals[0] += loss
        with self._machine.watchdog.during("in the all-reduce of the loss"):
            dist.all_reduce(totals)
        self._machine.watchdog.rest()
        auxiliary, loss, *others = (totals / tokens).unbind()
        return StepOutput(loss, tokens, auxiliary, dict(zip(metrics, others, strict=True)))


def _require_unwrapped(blocks: Sequence[nn.Module]) -> None:
    """Refuse what `torch.compile(block)` returns: it hides the block and renames its parameters."""
    for index, block in enumerate(blocks):
        if "_orig_mod" in dict(block.named_children()):
            raise ValueError(
                f"block {index} is the wrapper that torch.compile returns, which renames "
                "parameters; compile the block in place instead: block.compile()"
            )


def _count_elements(targets: Nested) -> int:
    first = targets[0] if isinstance(targets, tuple) else targets
    return first.numel()


def _agreed(name: str, asked: object, programs: object) -> Any:
    """What was asked for, or what the program says; both must agree."""
    if asked is not None and programs is not None and asked != programs:
        raise ValueError(f"{name}: the program says {programs}, got {asked}; leave it out")
    return programs if asked is None else asked

"""The public face: a model cut into stages, trained by a plan's program."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy

from zeropp.ir import Program
from zeropp.plan import Plan
from zeropp.program.lowering import forward_only
from zeropp.program.verifier import require_valid
from zeropp.runtime.assemble import assemble, default_device, require_same_program
from zeropp.runtime.boundary import Tensors
from zeropp.runtime.compiled import require_unwrapped
from zeropp.runtime.constants import Constants, ConstantSender
from zeropp.runtime.executor import Execution
from zeropp.runtime.instructions import Instruction, instructions
from zeropp.runtime.machine import Feed, Head
from zeropp.runtime.mesh import PP, check_world_size, make_mesh, pipelines
from zeropp.runtime.microbatches import Batch, Microbatch, Nested, microbatches_of, on_device
from zeropp.runtime.observer import Laps, no_lap
from zeropp.runtime.shard import needs_sharding
from zeropp.runtime.stage import Stage, StageModule
from zeropp.runtime.ties import TiedCopies, find_ties, local_part
from zeropp.runtime.transport import Direct, Transport

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
    """A model laid over ranks by a plan.

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
        plan: sizes, schedule and sharding.
        mesh: axes (pp, dp_replicate, dp_shard); None: made over all ranks.
        init: `init(index, block)` fills block number `index`; required for blocks on meta.
        tokens: number of tokens in a micro-batch's targets; None: elements of the (first) target.
        precision: FSDP2's policy: `param_dtype` to compute in, `reduce_dtype` to sum and reduce in.
        timeout: seconds that one action may take before all ranks say where they are and exit.
        device: where to compute; None: the current GPU, or the CPU where there is none.
        transport: what carries tensors between ranks; None: torch.distributed's process groups.

    Raises:
        ValueError: sizes that do not fit the ranks or the model, meta blocks without `init`, or a
            block wrapped by `torch.compile`.
        InvalidProgramError: the plan's program breaks a rule.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        loss_fn: LossFn,
        plan: Plan,
        mesh: DeviceMesh | None = None,
        *,
        init: Callable[[int, nn.Module], None] | None = None,
        tokens: Callable[[Nested], Tensor | int] | None = None,
        precision: MixedPrecisionPolicy | None = None,
        timeout: float = 600.0,
        device: torch.device | None = None,
        transport: Transport | None = None,
    ) -> None:
        check_world_size(plan, dist.get_world_size())
        require_unwrapped(blocks)
        stages = plan.stage_blocks(len(blocks))
        self.plan = plan
        self.device = device or default_device()
        self.mesh = mesh or make_mesh(plan, self.device.type)
        self.rank = self.mesh[PP].get_local_rank()
        precision = precision or MixedPrecisionPolicy()
        self._sharded = needs_sharding(plan.dp_size, precision)
        self._loss_fn, self._tokens = loss_fn, tokens or _count_elements
        self.program = require_valid(plan.lower(plan.compute, sharded=self._sharded))
        require_same_program(self.program)
        self.ties = find_ties(blocks, stages)
        self._constants = ConstantSender(blocks, self.mesh[PP].get_group(), self.device, precision)
        self._machine = assemble(
            blocks,
            stages,
            self.ties,
            plan,
            self.mesh,
            precision,
            self.device,
            init,
            timeout,
            transport or Direct(),
        )
        modules = {s: stage.module for s, stage in self._machine.stages.items()}
        self._copies = TiedCopies(self.ties, plan.placement, pipelines(self.mesh), modules)
        self._training = self._ready(self.program)
        self._evaluations: dict[int, tuple[Instruction, ...]] = {}

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
        self, batch: Batch, *, constants: Constants | None = None, trace: Laps | None = None
    ) -> StepOutput:
        """Forward and backward of all micro-batches; gradients are added to `.grad`, reduced.

        Args:
            batch: (inputs, targets) of this data-parallel rank, each a tensor or a tuple of
                tensors [samples, ...], cut into B micro-batches of nearly equal size; or a list of
                B such pairs, each a micro-batch, whose sizes and lengths may differ. Every
                pipeline rank passes the same.
            constants: what blocks ask for by keyword-only arguments; pipeline rank 0 gives them.
            trace: measures the step: a `Trace`, or the times of an `Adapter`.

        Raises:
            ValueError: the batch does not fit the plan, or other constants than the blocks' own.
        """
        microbatches = microbatches_of(batch, self.plan.num_microbatches)
        tokens = self._total_tokens(microbatches)
        seed = 1.0 / tokens.to(torch.float32)
        feed = Feed(microbatches, self._share(constants), self._loss, seed)
        held = self._copies.set_aside()
        lap = trace.lap if trace else no_lap
        losses = Execution(self._machine, feed, lap).run(self._training)
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

        def head(microbatch: Microbatch, outputs: Tensors) -> Tensors:
            targets = self._targets(microbatch)
            values = (function(*outputs, targets).float() for function in functions.values())
            return (*self._loss(microbatch, outputs), *values)

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
        return self.plan.placement.rank_of(self.plan.placement.num_stages - 1) == self.rank

    def clip_grad_norm_(self, max_norm: float) -> Tensor:
        """Scale all gradients so that their norm over all stages and shards is at most `max_norm`.

        Returns:
            The norm before clipping; scalar, fp32, the same on every rank.
        """
        squares = torch.zeros((), device=self.device)
        local = []
        for parameter in self.parameters():
            if (gradient := parameter.grad) is None:
                continue
            local.append(local_part(gradient))
            if self._copies.owns(parameter):
                squares += torch.linalg.vector_norm(local[-1], dtype=torch.float32) ** 2
        with self._machine.watchdog.during("in the all-reduce of the gradient norm"):
            dist.all_reduce(squares)
        self._machine.watchdog.rest()
        norm = (squares / self.plan.dp_replicate).sqrt()
        torch._foreach_mul_(local, torch.clamp(max_norm / (norm + 1e-6), max=1.0))
        return norm

    def close(self) -> None:
        """Destroy the channels' process groups; the pipeline cannot run afterwards."""
        self._machine.close()
        self._copies.close()

    def follow(self, plan: Plan) -> None:
        """Run another order from the next step on; collective, on all ranks.

        Raises:
            ValueError: the plan changes more than the order, or ranks were given different plans.
            InvalidProgramError: its program breaks a rule.
        """
        kept = ("pp_size", "num_chunks", "num_microbatches", "dp_shard", "dp_replicate")
        for name in (*kept, "placement", "split", "recompute"):
            if getattr(plan, name) != getattr(self.plan, name):
                raise ValueError(f"{name} cannot change while training; make another pipeline")
        program = require_valid(plan.lower(plan.compute, sharded=self._sharded))
        require_same_program(program)
        self.plan, self.program = plan, program
        self._training = self._ready(program)

    def _infer(
        self, microbatches: list[Microbatch], head: Head, constants: Constants | None
    ) -> list[Tensors]:
        count = len(microbatches)
        if count not in self._evaluations:
            schedule = forward_only(self.plan.placement, count)
            program = require_valid(self.plan.lower(schedule, sharded=self._sharded))
            self._evaluations[count] = self._ready(program)
        feed = Feed(microbatches, self._share(constants), head, seed=None)
        return Execution(self._machine, feed, no_lap).run(self._evaluations[count])

    def _share(self, constants: Constants | None) -> Constants:
        with self._machine.watchdog.during("in the broadcast of the step's constants"):
            return self._constants.share(constants)

    def _ready(self, program: Program) -> tuple[Instruction, ...]:
        order = program.actions[self.rank]
        return instructions(order, program.placement, self._machine.stages)

    def _loss(self, microbatch: Microbatch, outputs: Tensors) -> Tensors:
        return (self._loss_fn(*outputs, self._targets(microbatch)).float(),)

    def _targets(self, microbatch: Microbatch) -> Nested:
        return on_device(microbatch.targets, self.device)

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


def _count_elements(targets: Nested) -> int:
    first = targets[0] if isinstance(targets, tuple) else targets
    return first.numel()

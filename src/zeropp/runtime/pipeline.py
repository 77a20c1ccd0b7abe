"""The public face of the engine: a model cut into stages, trained by a program."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.nn.utils import clip_grads_with_norm_

from zeropp.ir.placement import Placement
from zeropp.ir.program import Program
from zeropp.runtime.agreement import Agreement, together
from zeropp.runtime.assemble import Init, Model, assemble
from zeropp.runtime.block import Draw, Tensors
from zeropp.runtime.channel import Transport
from zeropp.runtime.executor import Execution, Observer, Work
from zeropp.runtime.inputs import Batch, Microbatch, Nested, microbatches_of
from zeropp.runtime.keywords import Constants, Derived, Keywords
from zeropp.runtime.look import Look
from zeropp.runtime.loss import Loss, LossFn, count_valid, finished, scalar
from zeropp.runtime.mesh import PP, check_mesh, data_rank, data_size, default_device
from zeropp.runtime.outcome import StepFailedError, StepOutput, outcome
from zeropp.runtime.probe import Probe
from zeropp.runtime.programs import Programs, named, sound
from zeropp.runtime.shard import needs_sharding
from zeropp.runtime.stage import Stage, StageModule
from zeropp.runtime.ties import TiedCopies, gradient_norm


class Pipeline:
    """A model laid over ranks, that runs a program.

    Args:
        blocks: the model as a sequence; each maps tensors to tensors, a tuple feeds the next
            block's arguments. The last stage's outputs go to the loss. Tensors may be of any
            dtype; those without gradient travel forward only. Keyword-only arguments of a block's
            `forward` are constants of the step, parts of its batch, or `derived`. A parameter that
            several blocks share stays tied, on whichever stages they are. Blocks may be on the meta
            device; those of this rank are then made real on its device, by `init` or `load`. Data-
            parallel ranks start with what the first of them has, but for what `load` gives.
        loss_fn: `loss_fn(*outputs, targets)`, the sum of the losses of a micro-batch's tokens. The
            pipeline divides by the number of tokens of the whole batch, so micro-batches and ranks
            of different size count by their tokens.
        program: what every rank executes; one with collectives runs without them where nothing is
            sharded. A function is called for it, so that all ranks are told if it fails.
        mesh: axes (pp, dp_replicate, dp_shard), as `make_mesh` makes it.
        split: number of blocks in each stage; None: the program's, or nearly equal.
        recompute: what of a block is run again in its B; None: the program's, or nothing.
        program_for: makes the program of another number of micro-batches, the same on every rank;
            None: no step may have another number than `program`.
        init: `init(index, block)` fills block number `index`, whole; for blocks on meta.
        load: the same, but once its parameters are sharded: a rank never has more than its part.
        tokens: number of tokens in a micro-batch's targets; None: elements of the (first) target,
            of whole numbers those that are not -100, which torch's losses ignore.
        precision: FSDP2's policy: `param_dtype` to compute in, `reduce_dtype` to sum and reduce in.
        timeout: seconds that one action may take before all ranks say where they are and exit.
        device: where to compute; None: where the process group's tensors are.
        transport: what carries tensors between ranks; None: torch.distributed's process groups.
        derived: by the name of a keyword-only argument, a function that makes it of others, whose
            names its own arguments have; called on each rank, once for each micro-batch.
        seed: of all random numbers in forwards. Each block draws its own for each step and each
            micro-batch of the whole batch, so that dropout is the same in every layout.
        end_mesh: called with the mesh and the stages at the end of `close`, as `close_mesh`.

    Attributes:
        steps: how many steps were made; random numbers depend on it.

    Raises:
        ValueError: a program that fits neither mesh nor model, or has no collectives where
            parameters are sharded; meta blocks without `init` or `load`, or a block wrapped by
            `torch.compile`.
        InvalidProgramError: the program breaks a rule.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        loss_fn: LossFn,
        program: Program | Callable[[], Program],
        mesh: DeviceMesh,
        *,
        split: tuple[int, ...] | None = None,
        recompute: str | None = None,
        program_for: Callable[[int], Program] | None = None,
        init: Init | None = None,
        load: Init | None = None,
        tokens: Callable[[Nested], Tensor | int] | None = None,
        precision: MixedPrecisionPolicy | None = None,
        timeout: float = 600.0,
        device: torch.device | None = None,
        transport: Transport | None = None,
        derived: Derived | None = None,
        seed: int = 0,
        end_mesh: Callable[[DeviceMesh, tuple[nn.Module, ...]], None] | None = None,
    ) -> None:
        check_mesh(mesh)
        self.mesh, self.device = mesh, device or default_device()
        precision, made = precision or MixedPrecisionPolicy(), derived or {}
        sharded = needs_sharding(data_size(mesh), precision)

        def given() -> tuple[Program, Model, Keywords, Loss]:
            if not timeout > 0:
                raise ValueError(f"timeout must be above 0 seconds, got {timeout}")
            run = sound(program() if callable(program) else program, mesh.size(0), sharded)
            model = Model(blocks, run, split, recompute, init, load, precision, made)
            asked = Keywords(blocks, made, mesh, self.device, precision)
            return run, model, asked, Loss(loss_fn)

        program, model, self._keywords, self._loss = together(  # one rank refuses on all of them
            given, lambda found: {"seed": seed, **found[1].same_everywhere, **named(found[0])}
        )
        self.rank, self._seed, self.steps = mesh.get_local_rank(PP), seed, 0
        self._broken: str | None = None
        self._agreement = Agreement(mesh, self.device, tokens or count_valid)
        self.ties, placement, carried = model.ties, program.placement, transport or Transport()
        self._machine = assemble(model, placement, mesh, self.device, timeout, carried)
        stages, boundaries = self._machine.stages, self._machine.boundaries
        self._probe = Probe(boundaries, stages, placement, mesh, self.device)
        modules = {s: stage.module for s, stage in stages.items()}
        self._look = Look(list(modules.values()))
        self._copies = TiedCopies(self.ties, placement, mesh, modules)
        self._programs = Programs(program, program_for, sharded, self.rank, stages)
        self._closing = ExitStack()
        if end_mesh is not None:
            self._closing.callback(end_mesh, mesh, self.modules)
        for part in (self._machine, self._copies, self._keywords, self._agreement):
            self._closing.callback(part.close)

    @property
    def program(self) -> Program:
        """What a step of B micro-batches runs."""
        return self._programs.program

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
        divisor: int | None = None,
    ) -> StepOutput:
        """Forward and backward of all micro-batches; gradients are added to `.grad`, reduced.

        Args:
            batch: (inputs, targets) of this data-parallel rank, each a tensor or a tuple of
                tensors [samples, ...], or (inputs, targets, {name: tensor}) with what blocks ask
                for by keyword-only arguments; cut into B micro-batches of nearly equal size; or a
                list of such, each a micro-batch, whose sizes and lengths may differ; ranks of one
                pipeline pass the same, others may have more or fewer. A function is called for it,
                so that all ranks are told if it fails.
            constants: what blocks ask for, the same for all micro-batches; of pipeline rank 0.
            observer: told of the step's phases: a `Trace`, or the times of an `Adapter`.
            divisor: by what gradients are divided, where several steps make one of the optimizer:
                the tokens of all of them, on all ranks; None: those of this step.

        Raises:
            ValueError: on every rank alike, before anything is computed: the batch does not fit the
                program, others than the blocks' own constants, or a parameter that has changed.
            StepFailedError: on every rank alike: something failed on one.
        """

        def given() -> Batch:
            if not torch.is_grad_enabled():
                raise ValueError("step: gradients are off (no_grad, inference_mode); call eval")
            return batch

        call = "step" if divisor is None else f"step, divisor {divisor}"
        microbatches, tokens = self._met(call, given, self.num_microbatches, constants)
        program = self._programs.training(len(microbatches))
        shared = tokens.clamp(min=1) if divisor is None else torch.as_tensor(divisor)
        seed = 1.0 / shared.to(self.device, torch.float32, non_blocking=True)
        works = self._works(microbatches, constants, self._loss)
        held = self._copies.set_aside()
        execution = Execution(self._machine, works, seed, observer)
        losses = execution.run(program)
        with self._machine.watchdog.during("in the sum of tied parameters' gradients"):
            self._copies.sum_gradients(held)
        self.steps += 1
        try:
            return outcome(execution, losses, tokens)
        except StepFailedError as failed:
            self._broken = str(failed)
            raise

    def recover(self) -> None:
        """Go on after a step that failed: all gradients are dropped, on this rank."""
        for parameter in self.parameters():
            parameter.grad = None
        self._broken = None

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
        functions = metrics or {}
        call = ", ".join(["eval", *functions])
        microbatches, tokens = self._met(call, lambda: batch, num_microbatches, constants)

        def head(targets: Nested, outputs: Tensors) -> Tensors:
            values = (scalar(n, metric(*outputs, targets)) for n, metric in functions.items())
            return (*self._loss(targets, outputs), *values)

        results, execution = self._infer(microbatches, head, constants)
        return outcome(execution, results, tokens, tuple(functions))

    def predict(
        self,
        inputs: Nested,
        num_microbatches: int = 1,
        *,
        constants: Constants | None = None,
        keywords: Mapping[str, Tensor] | None = None,
    ) -> list[Tensors] | None:
        """The last stage's outputs, by micro-batch, on the rank that holds it; None elsewhere.

        `keywords` are tensors [samples, ...] that are cut with the inputs.
        """
        batch = inputs, inputs, keywords or {}
        microbatches, tokens = self._met("predict", lambda: batch, num_microbatches, constants)
        outputs, execution = self._infer(
            microbatches, lambda _, made: tuple(map(finished, made)), constants
        )
        outcome(execution, [], tokens)
        return outputs if self.holds_last_stage else None

    @property
    def holds_last_stage(self) -> bool:
        """Whether this rank computes the loss."""
        return self.placement.rank_of(self.placement.num_stages - 1) == self.rank

    def clip_grad_norm_(self, max_norm: float, *, error_if_nonfinite: bool = False) -> Tensor:
        """Scale all gradients so that their norm over all stages and shards is at most `max_norm`.

        Args:
            max_norm: above 0.
            error_if_nonfinite: raise, on every rank, instead of scaling by what is not finite.

        Returns:
            The norm before clipping; scalar, fp32, the same on every rank.

        Raises:
            ValueError: on every rank: `max_norm` is not above 0, or another on one of them.
            RuntimeError: the norm is not finite, and `error_if_nonfinite`.
        """
        self.agree(f"clip_grad_norm_({max_norm}, error_if_nonfinite={error_if_nonfinite})")
        if not max_norm > 0:
            raise ValueError(f"clip_grad_norm_: max_norm must be above 0, got {max_norm}")
        with self._machine.watchdog.during("in the all-reduce of the gradient norm"):
            norm = gradient_norm(self.parameters(), self._copies, self.mesh, self.device)
        self._machine.rest()
        if error_if_nonfinite and not norm.isfinite():
            raise RuntimeError(
                f"clip_grad_norm_: the norm of the gradients is {float(norm)}; skip this step "
                "(zero_grad and go on) or lower the learning rate"
            )
        clip_grads_with_norm_(self.parameters(), max_norm, norm)
        return norm

    def agree(self, call: str) -> None:
        """Every rank is about to make `call`; collective, on all of them.

        Raises:
            ValueError: on every rank, where one makes another.
        """
        with self._machine.watchdog.during(f"in the meeting before {call}"):
            self._agreement.meet(list, call)
        self._machine.watchdog.rest()

    def close(self) -> None:
        """End communication and leave nothing behind, before the process group is destroyed."""
        self._closing.close()

    def follow(self, program: Program) -> None:
        """Run another order from the next step on; collective, on all ranks.

        Raises:
            ValueError: the program changes more than the order, or ranks were given different ones.
            InvalidProgramError: it breaks a rule.
        """
        self.agree("follow")
        self._programs.follow(program)

    def _infer(
        self,
        microbatches: list[Microbatch],
        head: Callable[[Nested, Tensors], Tensors],
        constants: Constants | None,
    ) -> tuple[list[Tensors], Execution]:
        works = self._works(microbatches, constants, head)
        execution = Execution(self._machine, works, None, None)
        return execution.run(self._programs.evaluation(len(microbatches))), execution

    def _works(
        self,
        microbatches: list[Microbatch],
        constants: Constants | None,
        head: Callable[[Nested, Tensors], Tensors],
    ) -> list[Work]:
        """Every micro-batch, on the device, with its head, which is bound to its targets once."""
        with self._machine.watchdog.during("in the broadcast of the step's constants"):
            shared = self._keywords.share(constants)
        before, last = data_rank(self.mesh) * len(microbatches), self.holds_last_stage
        works = []
        for number, given in enumerate(microbatches):
            own = given.on(self.device, inputs=0 in self._machine.stages, targets=last)
            draw = Draw(self._seed, self.steps, before + number)
            named = self._keywords.named(own, shared, draw.seeding)
            works.append(Work(own.inputs, named, partial(head, own.targets), draw))
        if self._machine.travels:
            with self._machine.watchdog.during("finding the shapes of what travels"):
                self._probe.find(works)
        return works

    def _met(
        self, call: str, batch: Callable[[], Batch], parts: int, constants: Constants | None
    ) -> tuple[list[Microbatch], Tensor]:
        """Own micro-batches and all ranks' tokens, or ValueError on all of them."""

        def prepared() -> list[Microbatch]:
            self._look.require_unchanged()
            if self._broken is not None:
                raise ValueError(
                    f"the last step failed ({self._broken}); call recover(), "
                    "which drops all gradients"
                )
            microbatches = microbatches_of(batch(), parts)
            self._keywords.require_own(constants, microbatches)
            return microbatches

        with self._machine.watchdog.during("in the meeting before the step"):
            met = self._agreement.meet(prepared, call)
        self._machine.watchdog.start()
        return met

"""The public face: a model cut into stages, trained by a plan's program."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor

from zeropp.generate import forward_only
from zeropp.ir import Program, format_program
from zeropp.plan import Plan, Recompute
from zeropp.runtime import compat
from zeropp.runtime.boundary import Boundaries, Tensors
from zeropp.runtime.channel import Channels
from zeropp.runtime.executor import Execution, Machine, Spans
from zeropp.runtime.mesh import PP, check_world_size, data_mesh, make_mesh, pipelines
from zeropp.runtime.microbatches import Microbatch, Nested, cut
from zeropp.runtime.shard import needs_sharding, place_parameters
from zeropp.runtime.stage import Stage, StageModule
from zeropp.runtime.watchdog import Watchdog
from zeropp.verify import require_valid

LossFn = Callable[..., Tensor]


@dataclass(frozen=True)
class StepOutput:
    """What a step or an evaluation returns, the same on every rank.

    Attributes:
        loss: mean loss per token over all micro-batches and data-parallel ranks; scalar, fp32.
        tokens: the number of tokens it is the mean of; scalar.
    """

    loss: Tensor
    tokens: Tensor


class Pipeline:
    """A model laid over ranks by a plan.

    Args:
        blocks: the model as a sequence; each maps tensors to tensors, a tuple feeds the next
            block's arguments. The last stage's outputs go to the loss. Blocks may be on the meta
            device; those of this rank are then made real on its device and given to `init`.
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

    Raises:
        ValueError: sizes that do not fit the ranks or the model, or meta blocks without `init`.
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
    ) -> None:
        check_world_size(plan, dist.get_world_size())
        stages = plan.stage_blocks(len(blocks))
        self.plan = plan
        self.device = device or _default_device()
        self.mesh = mesh or make_mesh(plan, self.device.type)
        self.rank = self.mesh[PP].get_local_rank()
        precision = precision or MixedPrecisionPolicy()
        self._sharded = needs_sharding(plan.dp_size, precision)
        self._loss_fn, self._tokens = loss_fn, tokens or _count_elements
        self.program = require_valid(plan.lower(plan.compute, sharded=self._sharded))
        _require_same_program(self.program)
        self._evaluations: dict[int, Program] = {}
        boundaries = Boundaries(blocks, stages, precision)
        own = {s: stages[s] for s in plan.placement.stages_of(self.rank)}
        modules = {
            s: StageModule({i: _materialise(blocks[i], i, self.device, init) for i in indices})
            for s, indices in own.items()
        }
        dp_mesh = data_mesh(self.mesh) if self._sharded else None
        self._machine = Machine(
            plan.placement,
            {
                s: Stage(
                    module,
                    place_parameters(module, dp_mesh, precision),
                    precision,
                    Recompute(plan.recompute),
                )
                for s, module in modules.items()
            },
            Channels(plan.placement, pipelines(self.mesh), self.device),
            boundaries,
            self.device,
            Watchdog(plan.placement, self.rank, compat.common_store(), timeout),
        )

    @property
    def modules(self) -> tuple[StageModule, ...]:
        """This rank's stages; their parameters have global names such as `3.attn.q.weight`."""
        return tuple(stage.module for stage in self._machine.stages.values())

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """This rank's parameters, under their global names."""
        for module in self.modules:
            yield from module.named_parameters()

    def parameters(self) -> Iterator[nn.Parameter]:
        """This rank's parameters, for an optimizer."""
        return (parameter for _, parameter in self.named_parameters())

    def step(self, batch: tuple[Nested, Nested], span: Spans | None = None) -> StepOutput:
        """Forward and backward of all micro-batches; gradients are reduced into `.grad`.

        Args:
            batch: (inputs, targets) of this data-parallel rank, each a tensor or a tuple of
                tensors [samples, ...]; every pipeline rank passes the same. Samples are cut into
                B micro-batches of nearly equal size.
            span: wraps the computing part of every compute action, to measure it.
        """
        microbatches = cut(*batch, self.plan.num_microbatches)
        tokens = self._total_tokens(microbatches)
        execution = Execution(self._machine, microbatches, self._loss, 1.0 / tokens, span)
        losses = execution.run(self.program.actions[self.rank])
        return StepOutput(self._mean_loss(losses, tokens), tokens)

    def eval(self, batch: tuple[Nested, Nested], num_microbatches: int = 1) -> StepOutput:
        """The loss of a batch of any size, forward only; gradients are left alone."""
        microbatches = cut(*batch, num_microbatches)
        tokens = self._total_tokens(microbatches)
        losses = self._infer(microbatches, self._loss)
        return StepOutput(self._mean_loss(losses, tokens), tokens)

    def predict(self, inputs: Nested, num_microbatches: int = 1) -> list[Tensors] | None:
        """The last stage's outputs, by micro-batch, on the rank that holds it; None elsewhere."""
        outputs = self._infer(cut(inputs, inputs, num_microbatches), lambda _, outputs: outputs)
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
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        local = [g.to_local() if isinstance(g, DTensor) else g for g in gradients]
        squares = torch.zeros((), device=self.device)
        for gradient in local:
            squares += torch.linalg.vector_norm(gradient, dtype=torch.float32) ** 2
        self._machine.watchdog.begin("in the all-reduce of the gradient norm")
        dist.all_reduce(squares)
        self._machine.watchdog.rest()
        norm = (squares / self.plan.dp_replicate).sqrt()
        torch._foreach_mul_(local, torch.clamp(max_norm / (norm + 1e-6), max=1.0))
        return norm

    def close(self) -> None:
        """Destroy the channels' process groups; the pipeline cannot run afterwards."""
        self._machine.watchdog.close()
        self._machine.channels.close()

    def _infer(
        self,
        microbatches: list[Microbatch],
        head: Callable[[Microbatch, Tensors], Tensors],
    ) -> list[Tensors]:
        program = self._evaluation(len(microbatches))
        execution = Execution(self._machine, microbatches, head, seed=None)
        results = execution.run(program.actions[self.rank])
        self._machine.watchdog.rest()
        return results

    def _evaluation(self, num_microbatches: int) -> Program:
        if num_microbatches not in self._evaluations:
            schedule = forward_only(self.plan.placement, num_microbatches)
            program = require_valid(self.plan.lower(schedule, sharded=self._sharded))
            self._evaluations[num_microbatches] = program
        return self._evaluations[num_microbatches]

    def _loss(self, microbatch: Microbatch, outputs: Tensors) -> Tensors:
        targets = microbatch.targets
        if isinstance(targets, tuple):
            targets = tuple(t.to(self.device) for t in targets)
        else:
            targets = targets.to(self.device)
        return (self._loss_fn(*outputs, targets).float(),)

    def _total_tokens(self, microbatches: list[Microbatch]) -> Tensor:
        """Tokens of all data-parallel ranks: counted once per pipeline, by its first rank."""
        counts = [self._tokens(m.targets) for m in microbatches] if self.rank == 0 else []
        total = torch.zeros((), dtype=torch.int64, device=self.device)
        for count in counts:
            total += count
        self._machine.watchdog.begin("in the all-reduce of the token count")
        dist.all_reduce(total)
        return total

    def _mean_loss(self, losses: list[Tensors], tokens: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=self.device)
        for (loss,) in losses:
            total += loss
        self._machine.watchdog.begin("in the all-reduce of the loss")
        dist.all_reduce(total)
        self._machine.watchdog.rest()
        return total / tokens


def _materialise(
    block: nn.Module,
    index: int,
    device: torch.device,
    init: Callable[[int, nn.Module], None] | None,
) -> nn.Module:
    tensors = [*block.parameters(), *block.buffers()]
    if not any(tensor.is_meta for tensor in tensors):
        return block.to(device)
    if init is None:
        raise ValueError(f"block {index} is on the meta device; pass init to fill it")
    block = block.to_empty(device=device)
    init(index, block)
    return block


def _default_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def _count_elements(targets: Nested) -> int:
    first = targets[0] if isinstance(targets, tuple) else targets
    return first.numel()


def _require_same_program(program: Program) -> None:
    """Raise ValueError on every rank unless all ranks are about to run the same program."""
    digest = hashlib.sha256(format_program(program).encode()).hexdigest()
    digests: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(digests, digest)
    different = [rank for rank, other in enumerate(digests) if other != digests[0]]
    if different:
        raise ValueError(f"plan: ranks {different} have another program than rank 0")

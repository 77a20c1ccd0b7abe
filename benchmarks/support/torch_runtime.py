"""torch.distributed.pipelining's own runtime behind the few calls that the comparisons need.

Its first stage does not split: with an input that wants no gradient, B does nothing and W runs a
full backward. That is how its users get it, and it is left as it is.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import pipelining
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.pipelining import PipelineStage

import zeropp.torch
from zeropp.ir import Action, Kind, stage_blocks
from zeropp.plan import Plan
from zeropp.runtime.executor import Observer, Phase
from zeropp.runtime.mesh import PP, SHARD

CPU = torch.device("cpu")
Batch = tuple[Tensor, Tensor]
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Peer:
    """A schedule of torch, or `ScheduleZeroPP`, by the name of its class without `Schedule`."""

    name: str
    chunks: int | None = None  # stages per rank that it can have; None: any
    vee: bool = False  # whether stages go there and back over the ranks
    fewest: int = 1  # micro-batches that it needs, in P


PEERS = {
    peer.name: peer
    for peer in (
        Peer("1F1B", chunks=1),
        Peer("Interleaved1F1B"),
        Peer("LoopedBFS"),
        Peer("InterleavedZeroBubble"),
        Peer("ZBVZeroBubble", chunks=2, vee=True),
        Peer("DualPipeV", chunks=2, vee=True, fewest=2),
    )
}


OURS = Peer("ZeroPP")  # our order and split, in torch's runtime


class TorchPipeline:
    """One of torch's schedules over this rank's stages, used as our `Pipeline` is.

    Blocks have the same names, and `loss` is the sum over a micro-batch's tokens; all micro-batches
    are equally large. With a mesh (pp, dp_replicate, dp_shard) parameters are sharded, and freed
    after every forward and backward if `shard` is `microbatch`.
    """

    def __init__(
        self,
        peer: Peer,
        blocks: Sequence[nn.Module],
        loss: Loss,
        plan: Plan,
        mesh: DeviceMesh | None = None,
        shard: str = "unit",
    ) -> None:
        group = mesh[PP].get_group() if mesh else torch.distributed.group.WORLD
        self._observer: Observer | None = None
        self._rank, B = group.rank(), plan.num_microbatches
        free = shard == "microbatch"
        cut = stage_blocks(len(blocks), plan.pp_size * plan.num_chunks, plan.split)
        loop = range(self._rank, len(cut), plan.pp_size)
        owned = [self._rank, len(cut) - 1 - self._rank] if peer.vee else loop
        self.modules = [_stage({i: blocks[i] for i in cut[stage]}, mesh, free) for stage in owned]
        self._stages = [
            PipelineStage(module, stage, len(cut), CPU, group=group)
            for module, stage in zip(self.modules, owned, strict=True)
        ]
        home: Any = zeropp.torch if peer == OURS else pipelining
        schedule: Any = getattr(home, f"Schedule{peer.name}")
        single = issubclass(schedule, pipelining.schedules.PipelineScheduleSingle)
        order = {"unit_size": plan.unit_size, "seam": plan.seam, "costs": plan.costs}
        # the loss is already divided by the number of tokens, so gradients need no scaling
        self._schedule = schedule(
            self._stages[0] if single else self._stages,
            B,
            loss_fn=lambda outputs, targets: loss(outputs, targets) / (targets.numel() * B),
            scale_grads=False,
            **(order if peer == OURS else {}),
        )

    @property
    def messages(self) -> int:
        """What this rank sends in a step."""
        order = self._schedule.pipeline_order_with_comms[self._rank]
        return sum(action.computation_type.value.startswith("SEND") for action in order)

    def step(self, batch: Batch, *, observer: Observer | None = None) -> float | None:
        """Forward and backward; the loss, on the rank of the last stage.

        An `observer`, the same in every step, is told when compute actions begin, and end.
        """
        if observer is not None and self._observer is None:
            self._watch(observer)
        self._observer = observer
        losses: list[Tensor] = []
        inputs = batch[:1] if self._rank == 0 else ()
        targets = batch[1] if any(stage.is_last for stage in self._stages) else None
        self._schedule.step(*inputs, target=targets, losses=losses, return_outputs=False)
        return float(torch.stack([loss.detach() for loss in losses]).sum()) if losses else None

    def close(self) -> None:
        """Its process group is not its own."""

    def _watch(self, observer: Observer) -> None:
        """Have what torch's runtime calls for F, for B or BW, and for W tell the observer."""
        latest: list[Action] = []  # the latest F, whose loss is computed after it

        def run(action: Action, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            if action.kind is Kind.F:
                latest[:] = [action]
            observer.observe(action, Phase.PARAMETERS)
            result = method(*args, **kwargs)
            observer.observe(action, Phase.COMPUTE)
            return result

        def watched(
            kind: Kind, stage: int, method: Callable[..., Any], m: int, *args: Any, **kwargs: Any
        ) -> Any:
            if kind is Kind.B and kwargs.get("full_backward", True):
                kind = Kind.BW
            return run(Action(kind, stage, m), method, m, *args, **kwargs)

        methods = ((Kind.F, "forward"), (Kind.B, "backward"), (Kind.W, "backward_weight"))
        for stage, (kind, does) in product(self._stages, methods):
            name = f"{does}_one_chunk"
            method = partial(watched, kind, stage.stage_index, getattr(stage, name))
            setattr(stage, name, method)
        loss = self._schedule._loss_fn  # public only as an argument of the constructor
        self._schedule._loss_fn = lambda *args: (
            run(latest[0], loss, *args) if latest else loss(*args)  # none while shapes are inferred
        )


def _stage(blocks: dict[int, nn.Module], mesh: DeviceMesh | None, free: bool) -> nn.Module:
    """One stage, with FSDP2 around every block where there is a mesh, as its users have it."""
    stage = nn.Sequential(OrderedDict((str(i), block) for i, block in blocks.items()))
    for module in (*blocks.values(), stage) if mesh else ():
        sharded: FSDPModule = fully_shard(module, mesh=mesh[SHARD], reshard_after_forward=free)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)  # gloo has no mean
    return stage

"""torch.distributed.pipelining's own runtime behind the few calls that the comparisons need.

Its first stage does not split: with an input that wants no gradient, B does nothing and W runs a
full backward. That is how its users get it, and it is left as it is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import pipelining
from torch.distributed.pipelining import PipelineStage

from zeropp.ir import Action, Kind

Mark = Callable[[Action | None], None]
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Peer:
    """One of torch's schedules.

    Attributes:
        name: of its class, without `Schedule`.
        chunks: stages per rank that it can have; None: any.
        vee: whether stages go there and back over the ranks.
        fewest: micro-batches that it needs, in P.
    """

    name: str
    chunks: int | None = None
    vee: bool = False
    fewest: int = 1

    def stages_of(self, rank: int, pp_size: int, num_chunks: int) -> list[int]:
        """A rank's stages."""
        if self.vee:
            return [rank, 2 * pp_size - 1 - rank]
        return [rank + pp_size * chunk for chunk in range(num_chunks)]


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


class TorchPipeline:
    """One of torch's schedules over this rank's stages.

    Args:
        peer: which.
        modules: the stages of the whole model, in forward order; those of other ranks may be None.
        loss_fn: `loss_fn(outputs, targets)`, a micro-batch's share of the loss.
        num_microbatches: B.
    """

    def __init__(
        self,
        peer: Peer,
        modules: Sequence[nn.Module],
        loss_fn: Callable[[Tensor, Tensor], Tensor],
        num_microbatches: int,
    ) -> None:
        self.rank, pp_size = dist.get_rank(), dist.get_world_size()
        owned = peer.stages_of(self.rank, pp_size, len(modules) // pp_size)
        self.modules = [modules[stage] for stage in owned]
        self.stages = [PipelineStage(modules[s], s, len(modules), CPU) for s in owned]
        schedule: Any = getattr(pipelining, f"Schedule{peer.name}")
        single = issubclass(schedule, pipelining.schedules.PipelineScheduleSingle)
        # the loss is already divided by the number of tokens, so gradients need no scaling
        self._schedule = schedule(
            self.stages[0] if single else self.stages,
            num_microbatches,
            loss_fn=loss_fn,
            scale_grads=False,
        )

    @property
    def holds_last_stage(self) -> bool:
        """Whether this rank computes the loss."""
        return any(stage.is_last for stage in self.stages)

    def step(self, inputs: Tensor, targets: Tensor) -> float | None:
        """All micro-batches, forward and backward; the loss, on the rank of the last stage."""
        losses: list[Tensor] = []
        given = (inputs,) if self.rank == 0 else ()
        wanted = targets if self.holds_last_stage else None
        self._schedule.step(*given, target=wanted, losses=losses, return_outputs=False)
        return float(torch.stack([loss.detach() for loss in losses]).sum()) if losses else None

    def watch(self, mark: Mark) -> None:
        """Tell `mark` of each compute action when it begins, and with None when it has ended."""
        running: list[Action] = []  # the latest F, whose loss is computed after it

        def remembered(action: Action | None) -> None:
            if action is not None and action.kind is Kind.F:
                running[:] = [action]
            mark(action)

        for stage in self.stages:
            _watch_stage(stage, remembered)
        compute_loss = self._schedule._loss_fn  # public only as an argument of the constructor

        def with_loss(*args: Any) -> Tensor:
            mark(running[0] if running else None)  # none while torch infers shapes
            loss: Tensor = compute_loss(*args)
            mark(None)
            return loss

        self._schedule._loss_fn = with_loss


def _watch_stage(stage: PipelineStage, mark: Mark) -> None:
    """The methods that torch's runtime calls for F, for B or BW, and for W."""
    forward, backward = stage.forward_one_chunk, stage.backward_one_chunk
    weight = stage.backward_weight_one_chunk

    def run(kind: Kind, method: Callable[..., Any], m: int, *args: Any, **kwargs: Any) -> Any:
        mark(Action(kind, stage.stage_index, m))
        result = method(m, *args, **kwargs)
        mark(None)
        return result

    def run_backward(m: int, *args: Any, full_backward: bool = True, **kwargs: Any) -> None:
        kind = Kind.BW if full_backward else Kind.B
        run(kind, backward, m, *args, full_backward=full_backward, **kwargs)

    for name, replaced in (
        ("forward_one_chunk", partial(run, Kind.F, forward)),
        ("backward_one_chunk", run_backward),
        ("backward_weight_one_chunk", partial(run, Kind.W, weight)),
    ):
        setattr(stage, name, replaced)

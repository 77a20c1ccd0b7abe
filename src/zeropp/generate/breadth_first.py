"""Breadth-first: every chunk runs the whole batch before the next (arXiv 2211.05953, figure 4)."""

from zeropp.generate.request import Request
from zeropp.ir.action import Action, Kind
from zeropp.ir.schedule import Schedule


def breadth_first(request: Request) -> Schedule:
    """Forwards chunk by chunk, then fused backwards chunk by chunk downwards."""
    placement = request.placement()
    batch = range(request.num_microbatches)
    actions = tuple(
        (
            *(Action(Kind.F, s, m) for s in placement.stages_of(rank) for m in batch),
            *(Action(Kind.BW, s, m) for s in placement.stages_of(rank)[::-1] for m in batch),
        )
        for rank in range(request.pp_size)
    )
    return Schedule("breadth-first", placement, (request.num_microbatches,), actions)

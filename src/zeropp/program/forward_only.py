"""Forward only: what evaluation and generation of text run, chunk by chunk."""

from zeropp.ir.action import Action, Kind
from zeropp.ir.placement import Placement
from zeropp.ir.schedule import Schedule


def forward_only(placement: Placement, num_microbatches: int) -> Schedule:
    """All micro-batches through each chunk before the next, so each stage is gathered once.

    Raises:
        ValueError: no micro-batch.
    """
    actions = tuple(
        tuple(
            Action(Kind.F, s, m) for s in placement.stages_of(rank) for m in range(num_microbatches)
        )
        for rank in range(placement.pp_size)
    )
    return Schedule("forward-only", placement, (num_microbatches,), actions)

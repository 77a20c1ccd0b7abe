"""Forward only: what evaluation and generation of text run, chunk by chunk."""

from zeropp.ir.action import Action, Kind
from zeropp.ir.placement import Placement
from zeropp.ir.program import Program
from zeropp.ir.schedule import Schedule
from zeropp.program.lowering import lower
from zeropp.program.verifier import require_valid


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


def forward_only_program(like: Program, num_microbatches: int) -> Program:
    """The verified program of an evaluation, sharded as `like` is."""
    schedule = forward_only(like.placement, num_microbatches)
    limit = like.max_resident or like.placement.num_chunks
    return require_valid(lower(schedule, like.shard, max_resident=limit))

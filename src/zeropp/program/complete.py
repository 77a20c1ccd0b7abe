"""Every stage runs every micro-batch's F, and its B and W or its BW, exactly once, on its rank."""

from collections import Counter
from collections.abc import Iterator

from zeropp.ir.action import Action, Kind
from zeropp.ir.schedule import Schedule
from zeropp.program.violation import Violation, at


def complete(schedule: Schedule) -> Iterator[Violation]:
    """Report what is missing, repeated, out of range or on the wrong rank."""
    yield from _misplaced(schedule)
    count = Counter(action for order in schedule.actions for action in order)
    for stage in range(schedule.placement.num_stages):
        rank = schedule.placement.rank_of(stage)
        for m in range(schedule.num_microbatches):
            forward, *backward = (count[Action(kind, stage, m)] for kind in _KINDS)
            if forward != 1:
                yield Violation("complete", f"{stage}F{m} runs {forward} times, not once", rank)
            if schedule.trains and tuple(backward) not in _WHOLE:
                ran = ", ".join(f"{k} {n} times" for k, n in zip(_KINDS[1:], backward, strict=True))
                yield Violation(
                    "complete",
                    f"stage {stage} microbatch {m} runs {ran}; expected B and W once, or BW once",
                    rank,
                )


_KINDS = (Kind.F, Kind.B, Kind.W, Kind.BW)
_WHOLE = ((1, 1, 0), (0, 0, 1))  # split, fused


def _misplaced(schedule: Schedule) -> Iterator[Violation]:
    placement = schedule.placement
    for rank, order in enumerate(schedule.actions):
        for position, (_, stage, m) in enumerate(order):
            if stage >= placement.num_stages:
                yield at("complete", rank, position, order, "names a stage that does not exist")
            elif placement.rank_of(stage) != rank:
                message = f"belongs on rank {placement.rank_of(stage)}"
                yield at("complete", rank, position, order, message)
            elif m is None or m >= schedule.num_microbatches:
                yield at("complete", rank, position, order, "names no micro-batch of the batch")

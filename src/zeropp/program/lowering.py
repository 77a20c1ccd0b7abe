"""From a schedule to the program that ranks execute: collectives, then messages."""

from zeropp.ir.collector import collector_paused
from zeropp.ir.links import Links
from zeropp.ir.program import Program
from zeropp.ir.schedule import Schedule
from zeropp.ir.timeline import Timeline
from zeropp.program.collectives import shard
from zeropp.program.messages import with_messages


@collector_paused()
def lower(
    schedule: Schedule,
    shard_policy: str | None = None,
    *,
    max_resident: int = 2,
    prefetch: int | None = None,
    expected: Timeline | None = None,
) -> Program:
    """The schedule with its collectives and its messages.

    Args:
        schedule: compute actions.
        shard_policy: `unit`, `step` or `microbatch`; None: no collectives.
        max_resident: for `unit`, most stages of a rank whose parameters are gathered at once,
            those on their way included.
        prefetch: for `unit` and `step`, most compute actions before its first use that a gather is
            issued; None: as soon as `max_resident` leaves room.
        expected: of the schedule, as `Costs.expected` makes it; None: F, B and W are equal.

    Raises:
        ValueError: an unknown policy, or a knob out of range.
        DeadlockError: the schedule's orders contradict each other.
    """
    if shard_policy is None:
        program = Program(schedule, schedule.actions)
    else:
        program = shard(schedule, shard_policy, max_resident, prefetch)
    return with_messages(program, None if expected is None else _ends(program.links, expected))


def _ends(links: Links, expected: Timeline) -> list[float]:
    """When each F, B and W ends, by its number."""
    ends = [0.0] * links.sends
    for spans in expected.spans:
        for number, span in zip(links.numbers(span.action for span in spans), spans, strict=True):
            ends[number] = span.end
    return ends

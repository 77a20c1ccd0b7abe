"""A timeline says when every action ran: as early as precedence allows, or measured by a run."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from zeropp.ir.action import COMPUTE, Action
from zeropp.ir.links import Links
from zeropp.ir.placement import Placement
from zeropp.ir.schedule import Schedule
from zeropp.ir.walk import run_all, run_in_order, times_of


class Span(NamedTuple):
    """One action and when it started and ended, in the timeline's time unit."""

    action: Action
    start: float
    end: float


# of (action, start, end), as `new_action`
new_span: Callable[[tuple[Any, ...]], Span] = partial(tuple.__new__, Span)


@dataclass(frozen=True)
class Timeline:
    """The spans of every rank, each in the order in which they started.

    Attributes:
        title: what a picture of it is called.
        placement: stage -> rank.
        spans: for each rank, its spans.
        unit: the unit of time, such as `f` or `ms`.
    """

    title: str
    placement: Placement
    spans: tuple[tuple[Span, ...], ...]
    unit: str = "f"

    @property
    def makespan(self) -> float:
        """From the first start to the last end over all ranks."""
        every = [span for rank in self.spans for span in rank]
        return max(s.end for s in every) - min(s.start for s in every) if every else 0.0

    def busy(self, rank: int) -> float:
        """The time in which `rank` computes."""
        return sum(s.end - s.start for s in self.spans[rank] if s.action.kind in COMPUTE)

    @property
    def bubble_ratio(self) -> float:
        """Idle time / (P x makespan)."""
        total = len(self.spans) * self.makespan
        return 1.0 - sum(map(self.busy, range(len(self.spans)))) / total if total else 0.0


def evaluate(
    schedule: Schedule, duration: Callable[[Action], float], latency: float = 0.0
) -> Timeline:
    """Run every rank's actions in order, each as early as its predecessors allow.

    Args:
        schedule: the compute order.
        duration: time of an action.
        latency: time from an action's end until another rank sees its result.

    Raises:
        DeadlockError: the ranks' orders contradict each other.
    """
    links = Links(schedule)
    orders = list(map(links.numbers, schedule.actions))
    durations = [0.0] * links.sends
    for order, numbers in zip(schedule.actions, orders, strict=True):
        for action, number in zip(order, numbers, strict=True):
            durations[number] = duration(action)
    run_all(schedule.actions, links, run_in_order(orders, links.own))  # each stage's are in order
    starts, ends = times_of(schedule, links, orders, durations, latency)
    spans = (
        tuple(new_span((action, starts[n], ends[n])) for action, n in zip(*rank, strict=True))
        for rank in zip(schedule.actions, orders, strict=True)
    )
    return Timeline(schedule.name, schedule.placement, tuple(spans))

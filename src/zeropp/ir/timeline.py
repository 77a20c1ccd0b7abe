"""A timeline says when every action ran: as early as precedence allows, or measured by a run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from zeropp.ir.action import COMPUTE, Action, collector_paused
from zeropp.ir.placement import Placement
from zeropp.ir.precedence import predecessors
from zeropp.ir.schedule import Schedule

MOMENT = 0.01  # the least that a message takes, in the shortest F, where messages come in order


class Span(NamedTuple):
    """One action and when it started and ended, in the timeline's time unit."""

    action: Action
    start: float
    end: float


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


class Blocked(NamedTuple):
    """A rank that stopped: at which position of its order, and for which action it waits."""

    rank: int
    position: int
    action: Action
    awaits: Action

    def __str__(self) -> str:
        return f"rank {self.rank} at position {self.position} ({self.action}) awaits {self.awaits}"


class DeadlockError(ValueError):
    """No rank can go on; the message names what each blocked rank awaits."""


def run_in_order(
    orders: Sequence[Sequence[Action]], attempt: Callable[[int, Action], Action | None]
) -> list[Blocked]:
    """Run the ranks' orders side by side; return the ranks that could not finish.

    `attempt` runs an action on a rank and returns None, or returns the action that must run (on any
    rank) before it can. What it runs first never keeps another rank from running, so the order in
    which ranks are tried does not matter.
    """
    position = [0] * len(orders)
    waiting: dict[Action, list[int]] = {}
    runnable = list(range(len(orders)))
    while runnable:
        rank = runnable.pop()
        order, index = orders[rank], position[rank]
        while index < len(order):
            action = order[index]
            awaited = attempt(rank, action)
            if awaited is not None:
                waiting.setdefault(awaited, []).append(rank)
                break
            index += 1
            if action in waiting:
                runnable.extend(waiting.pop(action))
        position[rank] = index
    stopped = {rank: awaited for awaited, ranks in waiting.items() for rank in ranks}
    return [
        Blocked(rank, position[rank], orders[rank][position[rank]], awaited)
        for rank, awaited in sorted(stopped.items())
    ]


@collector_paused()
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
    spans: list[list[Span]] = [[] for _ in schedule.actions]
    done: dict[Action, tuple[float, int]] = {}

    def attempt(rank: int, action: Action) -> Action | None:
        start = spans[rank][-1].end if spans[rank] else 0.0
        for needed in predecessors(action, schedule):
            if needed not in done:
                return needed
            end, where = done[needed]
            start = max(start, end if where == rank else end + latency)
        end = start + duration(action)
        spans[rank].append(Span(action, start, end))
        done[action] = (end, rank)
        return None

    if blocked := run_in_order(schedule.actions, attempt):
        raise DeadlockError("deadlock: " + "; ".join(map(str, blocked)))
    return Timeline(schedule.name, schedule.placement, tuple(map(tuple, spans)))

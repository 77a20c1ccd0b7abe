"""A timeline says when every action ran: as early as precedence allows, or measured by a run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from zeropp.ir.action import COMPUTE, Action
from zeropp.ir.links import Links
from zeropp.ir.placement import Placement
from zeropp.ir.schedule import Schedule

MOMENT = 0.01  # the least that a message takes, in the shortest F, where messages come in order
NEVER = -1.0  # times are 0 or more

Attempt = Callable[[int, int], int | None]  # of a rank, to run the action of a number


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


class DeadlockError(ValueError):
    """No rank can go on; the message names what each blocked rank awaits."""


def run_in_order(orders: Sequence[Sequence[int]], attempt: Attempt) -> list[tuple[int, int, int]]:
    """Run the ranks' orders, of numbered actions, side by side; of each rank that could not finish,
    its number, at which position it stands, and what it awaits.

    `attempt` runs an action on a rank and returns None, or returns the action that must run (on any
    rank) before it can. What it runs first never keeps another rank from running, so the order in
    which ranks are tried does not matter.
    """
    position = [0] * len(orders)
    waiting: dict[int, list[int]] = {}
    runnable = list(range(len(orders)))
    while runnable:
        rank = runnable.pop()
        order, index = orders[rank], position[rank]
        while index < len(order):
            number = order[index]
            awaited = attempt(rank, number)
            if awaited is not None:
                waiting.setdefault(awaited, []).append(rank)
                break
            index += 1
            if number in waiting:
                runnable.extend(waiting.pop(number))
        position[rank] = index
    stopped = ((rank, awaited) for awaited, ranks in waiting.items() for rank in ranks)
    return [(rank, position[rank], awaited) for rank, awaited in sorted(stopped)]


def run_all(actions: Sequence[Sequence[Action]], links: Links, attempt: Attempt) -> None:
    """Run the ranks' actions in order, or raise DeadlockError."""
    told = [
        f"rank {rank} at position {at} ({actions[rank][at]}) awaits {links.action(awaited)}"
        for rank, at, awaited in run_in_order(list(map(links.numbers, actions)), attempt)
    ]
    if told:
        raise DeadlockError("deadlock: " + "; ".join(told))


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
    own, source, channel = links.own, links.source, links.channel
    rest = list(map(iter, schedule.actions))
    spans: list[list[Span]] = [[] for _ in rest]
    free, ended = [0.0] * len(rest), [NEVER] * links.sends

    def attempt(rank: int, number: int) -> int | None:
        start = free[rank]
        if (needed := own[number]) >= 0 and ended[needed] < 0:
            return needed
        if (needed := source[number]) >= 0:
            if (end := ended[needed]) < 0:
                return needed
            if channel[number] >= 0:
                end += latency
            if end > start:
                start = end
        action = next(rest[rank])
        free[rank] = ended[number] = end = start + duration(action)
        spans[rank].append(Span(action, start, end))
        return None

    run_all(schedule.actions, links, attempt)
    return Timeline(schedule.name, schedule.placement, tuple(map(tuple, spans)))

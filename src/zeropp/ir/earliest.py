"""Earliest-start evaluation: when each compute action runs if nothing but precedence delays it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from zeropp.ir.action import Action, collector_paused
from zeropp.ir.precedence import predecessors
from zeropp.ir.schedule import Schedule
from zeropp.ir.timeline import Span, Timeline


class Blocked(NamedTuple):
    """A rank that stopped: at which position of its order, and for which action it waits."""

    rank: int
    position: int
    action: Action
    awaits: Action

    def __str__(self) -> str:
        return f"rank {self.rank} at position {self.position} ({self.action}) awaits {self.awaits}"


def run_in_order(
    orders: Sequence[Sequence[Action]], attempt: Callable[[int, Action], Action | None]
) -> tuple[Blocked, ...]:
    """Run the orders side by side; return the ranks that could not finish.

    Args:
        orders: for each rank, its actions.
        attempt: runs an action on a rank and returns None, or returns the action that must run
            (on any rank) before it can. What it runs first never keeps another rank from running,
            so the order in which ranks are tried does not matter.
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
    stopped = ((rank, awaited) for awaited, ranks in waiting.items() for rank in ranks)
    return tuple(
        Blocked(rank, position[rank], orders[rank][position[rank]], awaited)
        for rank, awaited in sorted(stopped)
    )


class DeadlockError(ValueError):
    """No rank can go on; the message names what each blocked rank awaits."""


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

"""Earliest-start evaluation: when each compute action runs if nothing but precedence delays it."""

from collections.abc import Callable

from zeropp.ir.action import Action
from zeropp.ir.collector import collector_paused
from zeropp.ir.deps import predecessors
from zeropp.ir.progress import run_in_order
from zeropp.ir.schedule import Schedule
from zeropp.ir.timeline import Span, Timeline


class DeadlockError(ValueError):
    """No rank can go on; the message names what each blocked rank awaits."""


@collector_paused
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

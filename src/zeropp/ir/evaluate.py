"""Earliest-start evaluation: when each compute action runs if nothing but precedence delays it."""

from collections.abc import Callable

from zeropp.ir.action import Action
from zeropp.ir.deps import predecessors
from zeropp.ir.schedule import Schedule
from zeropp.ir.timeline import Span, Timeline


class DeadlockError(ValueError):
    """No rank can go on; the message names what each blocked rank awaits."""


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
    return _Evaluation(schedule, duration, latency).run()


class _Evaluation:
    """The state of one evaluation: who has done what, and who waits for which action."""

    def __init__(
        self, schedule: Schedule, duration: Callable[[Action], float], latency: float
    ) -> None:
        self.schedule, self.duration, self.latency = schedule, duration, latency
        self.spans: list[list[Span]] = [[] for _ in schedule.actions]
        self.done: dict[Action, tuple[float, int]] = {}
        self.waiting: dict[Action, list[int]] = {}

    def run(self) -> Timeline:
        runnable = list(range(len(self.spans)))
        while runnable:
            runnable.extend(self._advance(runnable.pop()))
        self._refuse_deadlock()
        placement = self.schedule.placement
        return Timeline(self.schedule.name, placement, tuple(map(tuple, self.spans)))

    def _advance(self, rank: int) -> list[int]:
        """Run `rank` until it blocks; return the ranks that it woke."""
        woken: list[int] = []
        spans = self.spans[rank]
        order = self.schedule.actions[rank]
        while len(spans) < len(order):
            action = order[len(spans)]
            missing, ready = self._ready(action, rank)
            if missing is not None:
                self.waiting.setdefault(missing, []).append(rank)
                break
            start = max(ready, spans[-1].end if spans else 0.0)
            end = start + self.duration(action)
            spans.append(Span(action, start, end))
            self.done[action] = (end, rank)
            woken.extend(self.waiting.pop(action, ()))
        return woken

    def _ready(self, action: Action, rank: int) -> tuple[Action | None, float]:
        """The first unmet predecessor, or the time at which all are met."""
        ready = 0.0
        for needed in predecessors(action, self.schedule):
            if needed not in self.done:
                return needed, 0.0
            end, where = self.done[needed]
            ready = max(ready, end if where == rank else end + self.latency)
        return None, ready

    def _refuse_deadlock(self) -> None:
        blocked = [
            f"rank {rank} at position {len(self.spans[rank])} ({self.schedule.actions[rank][len(self.spans[rank])]}) awaits {awaited}"
            for awaited, ranks in self.waiting.items()
            for rank in ranks
        ]
        if blocked:
            raise DeadlockError("deadlock: " + "; ".join(sorted(blocked)))

"""Running every rank's actions in order until all end or nobody can go on."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from zeropp.ir.action import Action


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

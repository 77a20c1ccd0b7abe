"""The ranks' orders side by side: what can run before what, where they block, and when all ends."""

from collections.abc import Sequence

from zeropp.ir.action import Action
from zeropp.ir.links import Links, Numbers
from zeropp.ir.schedule import Schedule

MOMENT = 0.01  # the least that a message takes, in the shortest F, where messages come in order

Stretch = tuple[int, int, int]  # a rank, from where in its order, to where; or what it awaits
Walked = tuple[list[Stretch], list[Stretch]]  # what ran, and where ranks are blocked


class DeadlockError(ValueError):
    """No rank can go on; the message names what each blocked rank awaits."""


def run_in_order(orders: Numbers, awaits: Sequence[int]) -> Walked:
    """Run the ranks' orders, of numbered actions, side by side, where each action waits for the one
    that `awaits` says, on any rank; -1 is none. What ran, stretch by stretch, so that none comes
    before what it waits for; and the ranks that could not finish, where, and what they await.
    """
    done = bytearray(len(awaits)) + b"\1"  # at -1
    reached = [0] * len(orders)
    waiting: dict[int, list[int]] = {}
    ran: list[Stretch] = []
    runnable = list(range(len(orders)))
    while runnable:
        rank = runnable.pop()
        order, start = orders[rank], reached[rank]
        at = len(order)
        for index in range(start, at):
            number = order[index]
            if not done[awaits[number]]:
                waiting.setdefault(awaits[number], []).append(rank)
                at = index
                break
            done[number] = 1
            if number in waiting:
                runnable += waiting.pop(number)
        reached[rank] = at
        ran.append((rank, start, at))
    stopped = ((rank, awaited) for awaited, ranks in waiting.items() for rank in ranks)
    return ran, [(rank, reached[rank], awaited) for rank, awaited in sorted(stopped)]


def run_all(actions: Sequence[Sequence[Action]], links: Links, walked: Walked) -> list[Stretch]:
    """Stretches in which the ranks' actions ran when they were walked; or DeadlockError."""
    ran, blocked = walked
    told = [
        f"rank {rank} at position {at} ({actions[rank][at]}) awaits {links.action(awaited)}"
        for rank, at, awaited in blocked
    ]
    if told:
        raise DeadlockError("deadlock: " + "; ".join(told))
    return ran


def times_of(
    schedule: Schedule, links: Links, orders: Numbers, durations: Sequence[float], latency: float
) -> tuple[list[float], list[float]]:
    """When each F, B and W starts and ends, by its number; see `evaluate`."""
    source, crosses = links.source, links.channel
    starts, ends = ([0.0] * links.sends for _ in range(2))
    free = [0.0] * len(orders)
    for rank, first, last in run_all(schedule.actions, links, run_in_order(orders, source)):
        now = free[rank]
        for number in orders[rank][first:last]:
            if (needed := source[number]) >= 0:
                arrived = ends[needed] + latency if crosses[number] >= 0 else ends[needed]
                if arrived > now:
                    now = arrived
            starts[number] = now
            ends[number] = now = now + durations[number]
        free[rank] = now
    return starts, ends

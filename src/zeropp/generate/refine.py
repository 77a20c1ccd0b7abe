"""Refining: any schedule's order made better for given times, by moves along its critical path.

The critical path is the chain of actions, each started by the end of the one before, that ends
last. Only what changes it can end the step sooner. So an action that its own rank kept waiting runs
some places earlier, or what it waited for some places later; the move stays if the makespan does
not grow (the neighbourhood of job-shop scheduling: Nowicki and Smutnicki, Management Science 42(6),
1996). Random draws are seeded, so equal requests give equal orders on every rank.
"""

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import NamedTuple

from zeropp.costs import Costs, floor
from zeropp.generate.events import NEAR
from zeropp.ir.collector import collector_paused
from zeropp.ir.placement import in_blocks
from zeropp.ir.precedence import predecessors
from zeropp.ir.schedule import Schedule
from zeropp.ir.slots import peak_slots, peak_slots_per_rank

_MOVES = 3000
_WORK = 4_000_000  # actions looked at over all moves, about a second
_REACH = (1, 1, 2, 3, 5)  # places that an action moves
_SAME = 1 + 1e-12  # sums of the same times in another order

Orders = list[list[int]]


@collector_paused()
def refined(schedule: Schedule, costs: Costs, slots: int | None = None) -> Schedule:
    """`schedule`, or another order of the same actions on the same ranks that ends sooner.

    No rank holds more than `slots` activations, by default as many as the schedule holds.
    """
    held = max(peak_slots_per_rank(schedule))
    if slots is not None and held > slots:
        raise ValueError(
            f"slots: {schedule.name} holds {held} with these sizes, and refining does not lower "
            f"that; got {slots}"
        )
    work = _Work(schedule, costs)
    most = held if slots is None else slots
    goal = floor(schedule.placement, schedule.num_microbatches, costs, most) * NEAR
    before = [list(block) for block in in_blocks(map(len, schedule.actions))]
    after = _search(work, before, goal, most)
    actions = tuple(tuple(work.actions[number] for number in order) for order in after)
    params = tuple(sorted((*schedule.params, ("refined", "yes"))))
    return replace(schedule, actions=actions, params=params)


class _Work:
    """A schedule's actions, numbered rank by rank."""

    def __init__(self, schedule: Schedule, costs: Costs) -> None:
        self.actions = [action for order in schedule.actions for action in order]
        self.rank = [rank for rank, order in enumerate(schedule.actions) for _ in order]
        self.duration = list(map(costs.duration, self.actions))
        number = {action: index for index, action in enumerate(self.actions)}
        needed = [[number[n] for n in predecessors(a, schedule)] for a in self.actions]
        # for each, the actions that end before it starts, and the hop that lies between
        self.needs = [
            [(n, costs.latency * (self.rank[n] != rank)) for n in numbers]
            for numbers, rank in zip(needed, self.rank, strict=True)
        ]


class _Run(NamedTuple):
    """What orders lead to; `cause` says of each action whose end let it start, -1: nothing's."""

    makespan: float
    last: int
    cause: list[int]


def _search(work: _Work, orders: Orders, goal: float, slots: int) -> Orders:
    best = _run(work, orders)
    if best is None:
        raise ValueError("refine: the schedule deadlocks")
    draw, waited = Random(0), _kept_waiting(work, best)
    for _ in range(min(_MOVES, _WORK // len(work.actions))):
        if best.makespan <= goal or not waited:
            break
        action = draw.choice(waited)
        rank = work.rank[action]
        tried = _moved(orders[rank], action, draw)
        if peak_slots(work.actions[number] for number in tried) > slots:
            continue
        moved = [*orders[:rank], tried, *orders[rank + 1 :]]
        found = _run(work, moved)
        if found is not None and found.makespan <= best.makespan * _SAME:
            orders, best, waited = moved, found, _kept_waiting(work, found)
    return orders


def _moved(order: list[int], action: int, draw: Random) -> list[int]:
    """`action` some places earlier, or the one before it some places later."""
    at, places = order.index(action), draw.choice(_REACH)
    if draw.random() < 0.5:
        taken, put = at, max(0, at - places)
    else:
        taken, put = at - 1, min(len(order) - 1, at - 1 + places)
    rest = [*order[:taken], *order[taken + 1 :]]
    return [*rest[:put], order[taken], *rest[put:]]


def _kept_waiting(work: _Work, run: _Run) -> list[int]:
    """The actions of the critical path that started when their rank had ended another."""
    waited, action = [], run.last
    while (cause := run.cause[action]) >= 0:
        if work.rank[cause] == work.rank[action]:
            waited.append(action)
        action = cause
    return waited


def _run(work: _Work, orders: Sequence[Sequence[int]]) -> _Run | None:
    """Every action as early as its rank's order and its inputs allow; None: a deadlock.

    What `ir.evaluate` does, on numbers: thousands of orders are tried.
    """
    ends, cause = [-1.0] * len(work.actions), [-1] * len(work.actions)
    position, free = [0] * len(orders), [0.0] * len(orders)
    duration, needs, moved = work.duration, work.needs, True
    while moved:
        moved = False
        for rank, order in enumerate(orders):
            first = index = position[rank]
            now, before = free[rank], order[index - 1] if index else -1
            while index < len(order):
                action = order[index]
                start, why = now, before
                for needed, hop in needs[action]:
                    if ends[needed] < 0:
                        break
                    if ends[needed] + hop > start:
                        start, why = ends[needed] + hop, needed
                else:
                    now = ends[action] = start + duration[action]
                    cause[action], before = why, action
                    index += 1
                    continue
                break
            position[rank], free[rank] = index, now
            moved = moved or index > first
    if sum(position) < len(work.actions):
        return None
    slowest = max(range(len(orders)), key=free.__getitem__)
    return _Run(free[slowest], orders[slowest][-1], cause)

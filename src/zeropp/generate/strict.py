"""Strict carry: the drained order of F and B is kept; W's go where the next is not there yet.

Units do not mix, so stages are visited as seldom as in the drained order. What that order waits for
at a seam, while a micro-batch travels to the last rank and back, is filled by W's of the units
before. They suffice where, at equal stages,

    U V w >= (P-1)(f + b + 2c)

and then a unit's own slots, V U, do: a rank whose slots are full may look ahead in its order for a
B, and one whose B is late for an F. Without a given U it is the least that meets this and, where a
rank has several stages, whose F's also last until the first of them is round (units.py).

W's need no parameters. Where gathers take time and not all stages of a rank stay, the next stage's
first F or B is not there until it is gathered, and W's run meanwhile (residency.py).

    P=4, V=1, U=4, rank 0          F F F F . . . B . B . B . B F F F F       drained, without W's
                                   F F F F . . . B . B . B . B F ...         the first unit
                                   ... F F F F W W W B W B . B . B           any later one
"""

from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

from zeropp.generate.events import IDLE, NEAR, NEVER, Choice, Outcome, Problem, Rule, run_pass
from zeropp.generate.request import split_evenly, split_within
from zeropp.generate.residency import Residency
from zeropp.generate.units import Orders, Sizes, hiding_size
from zeropp.ir.placement import in_blocks


class Habit(NamedTuple):
    """How strictly ranks keep the order."""

    look: int  # of how many next F's and B's the first that is there may run
    patience: float  # the share of a W for which a rank would rather wait


def strict(problem: Problem, unit_size: int | None, limit: int) -> tuple[Outcome, Sizes] | None:
    """The best of a few passes, the first of them in the slots of one unit."""
    units = _units(problem, unit_size)
    orders, before = Orders(problem, units), _drained(problem, units)
    best = None
    for most, habit in _tries(problem, units):
        found = run_pass(problem, keep(problem, orders, before, most, habit), limit)
        if found is not None:
            best, limit = (found, units), found.makespan - 1
            if found.makespan <= problem.floor * NEAR:
                break
    if best is None and limit == NEVER:  # few slots: an order that is kept so loosely always ends
        found = run_pass(
            problem, keep(problem, orders, before, problem.slots, Habit(len(orders), 0.5))
        )
        best = (found, units) if found is not None else None
    return best


def _tries(problem: Problem, units: Sizes) -> list[tuple[int, Habit]]:
    """Slots and habits, the most promising first."""
    far = max(1, problem.placement.pp_size // 2)
    lean = min(problem.slots, problem.placement.num_chunks * max(units))
    habits = (Habit(1, 0.5), Habit(2, 0.25), Habit(far, 1.0))
    return [(lean, Habit(far, 0.5)), *((problem.slots, habit) for habit in habits)]


def _units(problem: Problem, unit_size: int | None) -> Sizes:
    """Nearly equal: none above a given U, else the least that fill the seams within the slots.

    Where gathers take time, the largest: there are fewer gathers, and more W's for each.
    """
    total = problem.num_microbatches
    if unit_size is not None:
        return split_within(total, unit_size)
    most = min(total, max(1, problem.slots // problem.placement.num_chunks))
    least = most if problem.visited else _filling(problem)
    if problem.placement.num_chunks > 1:
        least = max(least, hiding_size(problem))
    return split_evenly(total, max(total // least, -(-total // most)))


def _filling(problem: Problem) -> int:
    """The fewest micro-batches whose W's last for one round trip of the slowest chunk."""
    P, stages, total = (
        problem.placement.pp_size,
        problem.placement.num_stages,
        problem.num_microbatches,
    )
    forward, backward, weight = (problem.durations[k * stages : (k + 1) * stages] for k in range(3))
    trip = [f + b for f, b in zip(forward, backward, strict=True)]
    longest = max(sum(trip[at : at + P]) - max(trip[at : at + P]) for at in range(0, stages, P))
    own = min(sum(weight[rank::P]) for rank in range(P))
    wait = longest + 2 * (P - 1) * problem.latency
    return min(total, max(1, ceil(wait / own))) if own else total


def _drained(problem: Problem, units: Sizes) -> list[list[int]]:
    """For each rank, how many F's run before each B.

    Of its unit those that reach the last chunk, two for each hop from there to the last rank, and
    one more with each B; of the next unit none.
    """
    P, V = problem.placement.pp_size, problem.placement.num_chunks
    spans = in_blocks(V * size for size in units)
    return [
        [
            min(span.stop, index + lead + 1)
            for span, size in zip(spans, units, strict=True)
            for lead in [(V - 1) * size + 2 * (P - 1 - rank)]
            for index in span
        ]
        for rank in range(P)
    ]


def with_gathers(
    problem: Problem, outcome: Outcome, units: Sizes, limit: int
) -> tuple[Outcome, Sizes] | None:
    """The same mix of F and B, run again with gathers that take time; None: not within `limit`."""
    before = [_before(problem, numbers) for numbers in outcome.ran]
    orders = Orders(problem, units)
    found = run_pass(problem, keep(problem, orders, before, problem.slots, Habit(1, 0.5)), limit)
    return (found, units) if found is not None else None


def _before(problem: Problem, numbers: Sequence[int]) -> list[int]:
    """How many F's are run before each B."""
    before, forwards = list[int](), 0
    for kind in (number // problem.pairs for number in numbers):
        if kind == 0:
            forwards += 1
        elif kind == 1:
            before.append(forwards)
    return before


def keep(
    problem: Problem, orders: Orders, before: Sequence[Sequence[int]], slots: int, habit: Habit
) -> Rule:
    """Keep an interleaving, given by how many F's run `before` each B."""
    forwards, backwards, look = orders.forwards, orders.backwards, habit.look
    B, pairs, total = problem.num_microbatches, problem.pairs, len(orders)
    stages = problem.placement.num_stages
    worth_waiting = [habit.patience * time for time in problem.durations]
    counts = [[*rank, *[total] * look] for rank in before]

    def start(arrivals: list[int]) -> Choice:
        i_of, j_of, k_of = ([0 for _ in counts] for _ in range(3))  # F's, B's and W's started
        resident = [
            Residency(problem, orders, interleaving, rank)
            for rank, interleaving in enumerate(before if problem.visited else ())
        ]

        def choose(rank: int, now: int) -> tuple[int, int]:
            i, j, k, own = i_of[rank], j_of[rank], k_of[rank], rank * B
            f, b, due = forwards[i] + own, backwards[j] + own, counts[rank]
            forward_first = i < due[j]
            forward = arrivals[f] if i < due[j + look - 1] else NEVER
            backward = arrivals[b] if due[j] - i < look else NEVER
            if resident:
                own_visits = resident[rank]
                own_visits.issue(i + j, now)
                forward = max(forward, own_visits.ready[own_visits.of_f[i]] if i < total else 0)
                backward = max(backward, own_visits.ready[own_visits.of_b[j]] if j < total else 0)
            if full := i - k >= slots:
                full, forward = forward_first and forward <= now, NEVER
            if forward <= now and (forward_first or backward > now):
                i_of[rank] = i + 1
                return f, now
            if backward <= now:
                j_of[rank] = j + 1
                return b, now
            arrival, w = min(forward, backward), backwards[k] + own + pairs
            if k < j and (full or arrival - now >= worth_waiting[w // B]):
                k_of[rank] = k + 1
                if resident:
                    resident[rank].reduce(k + 1, w // B % stages, now + problem.durations[w // B])
                return w, now
            return IDLE, arrival

        return choose

    return start

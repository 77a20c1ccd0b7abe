"""Eager carry: a ready B first, else a ready F, else the oldest W; units mix where that is faster.

Which interleaving of F and B is best depends on the costs, so a few are tried, each by one pass: a
few unit sizes near U times a few rules by which a rank that is free chooses between its next F, its
next B and W. The first that reaches the floor ends the search, and a pass stops as soon as it
cannot beat the best so far.

Every rule gives rank p a **depth**, the most forwards that it lets run ahead of its backwards:
(V-1)U to reach the last chunk, one to turn around there, and `slope` more for each hop between it
and the last rank. Slots beyond the depth are for waiting W's, of which the oldest runs first.

    eager      a ready B, else a ready F within depth and slots, else the oldest W, unless something
               arrives before `patience` of that W is over; a W goes first if it blocks a ready F
    rhythm     fixed by counts: F up to the depth, then B; W once more wait than the depth leaves
               slots for; the rank waits for whatever is next

At equal times, slope 1 is 1F1B's depth and a rhythm with it ZB-H1's order; slope 2 is the drained
order's depth, which lets a rank run forwards until its first B is back from the last rank.
"""

from itertools import islice, product
from math import ceil
from typing import NamedTuple

from zeropp.generate.events import IDLE, NEAR, NEVER, Choice, Outcome, Problem, Rule, run_pass
from zeropp.generate.request import split_evenly, split_within
from zeropp.generate.units import Orders, Sizes, hiding_size

_PASSES = 8  # one less where what they find is run again with gathers


class Habit(NamedTuple):
    """How ranks choose."""

    slope: float  # forwards of depth per hop to the last rank
    # the share of a W for which an eager rank would rather wait; None: keep the rhythm
    patience: float | None = None


_HABITS = (Habit(2, 0.25), Habit(1.75), Habit(1), Habit(2, 0.0))


def eager(problem: Problem, unit_size: int | None, limit: int) -> tuple[Outcome, Sizes] | None:
    """The best of a few passes; of each habit, guesses of units are tried from the best on."""
    guesses = [Orders(problem, units) for units in _unit_sizes(problem, unit_size)]
    best = None
    for habit, orders in islice(product(_HABITS, guesses), _PASSES - problem.visited):
        found = run_pass(problem, _rule(problem, orders, habit), limit)
        if found is None:
            continue
        best, limit = (found, orders.units), found.makespan - 1
        if found.makespan <= problem.floor * NEAR:
            break
    return best


def _unit_sizes(problem: Problem, unit_size: int | None) -> list[Sizes]:
    """Unit sizes that sum to B, best guess first, each once; all fit the slots.

    F's of the next chunk reach rank 0 one round after those of the last: a unit hides that round if
    its own F's last as long, which takes P micro-batches at equal stages and free P2P, and more
    where hops cost time. Later units have W's and B's to fill the wait with; the first has nothing.

        B=26, U=P=8, a hop of F/8      nearly equal, none above U      7 7 6 6
                                       nearly equal, one unit fewer    9 9 8
                                       a first unit that hides its
                                       round, then nearly equal        9 6 6 5
                                       the same, one unit fewer        9 9 8
                                       nearly equal, two units fewer   13 13
                                       all hide their round            13 13

    `unit_size` None stands for P. Where it is given, no unit but the first reaches twice that; the
    first guess has no unit above it.
    """
    total, V = problem.num_microbatches, problem.placement.num_chunks
    near = unit_size or min(problem.placement.pp_size, total)
    even = _nearly_equal(total, near)
    if V == 1:
        return even[:1]  # the orders are the same for all sizes
    hiding = hiding_size(problem)
    led: list[Sizes] = []
    if near < hiding < total:
        led = [(hiding, *rest) for rest in _nearly_equal(total - hiding, near)]
    guesses = [*even[1:2], *led[:2], *even[2:]]
    if unit_size is None:
        guesses.append(split_evenly(total, max(1, total // hiding)))
    else:
        guesses = [sizes for sizes in guesses if max(sizes[1:] or sizes) < 2 * unit_size]
    fitting = [sizes for sizes in guesses if (V - 1) * max(sizes) < problem.slots]
    return list(dict.fromkeys([even[0], *fitting]))


def _nearly_equal(total: int, largest: int) -> list[Sizes]:
    """With the fewest units that keep all within `largest`, then with one and two units fewer."""
    parts = len(split_within(total, largest))
    return [split_evenly(total, n) for n in range(parts, max(0, parts - 3), -1)]


def _rule(problem: Problem, orders: Orders, habit: Habit) -> Rule:
    reach = (problem.placement.num_chunks - 1) * max(orders.units) + 1
    hops = reversed(range(problem.placement.pp_size))
    depth = [min(reach + ceil(habit.slope * n), problem.slots) for n in hops]
    if habit.patience is None:
        return _in_rhythm(problem, orders, depth)
    return _eagerly(problem, orders, depth, habit.patience)


def _eagerly(problem: Problem, orders: Orders, depth: list[int], patience: float) -> Rule:
    forwards, backwards, slots = orders.forwards, orders.backwards, problem.slots
    B, pairs = problem.num_microbatches, problem.pairs
    worth_waiting = [patience * time for time in problem.durations]

    def start(arrivals: list[int]) -> Choice:
        i_of, j_of, k_of = ([0 for _ in depth] for _ in range(3))  # F's, B's and W's started

        def choose(rank: int, now: int) -> tuple[int, int]:
            i, j, k, own = i_of[rank], j_of[rank], k_of[rank], rank * B
            f, b, w = forwards[i] + own, backwards[j] + own, backwards[k] + own + pairs
            forward, backward = arrivals[f], arrivals[b]
            if i - k >= slots:
                if forward <= now and k < j:
                    k_of[rank] = k + 1
                    return w, now
                forward = NEVER
            if backward <= now:
                j_of[rank] = j + 1
                return b, now
            if i - j >= depth[rank]:
                forward = NEVER
            if forward <= now:
                i_of[rank] = i + 1
                return f, now
            arrival = min(forward, backward)
            if k < j and arrival - now >= worth_waiting[w // B]:
                k_of[rank] = k + 1
                return w, now
            return IDLE, arrival

        return choose

    return start


def _in_rhythm(problem: Problem, orders: Orders, depth: list[int]) -> Rule:
    forwards, backwards = orders.forwards, orders.backwards
    B, pairs, total = problem.num_microbatches, problem.pairs, len(orders)
    share = [problem.slots - d for d in depth]

    def start(arrivals: list[int]) -> Choice:
        i_of, j_of, k_of = ([0 for _ in depth] for _ in range(3))  # F's, B's and W's started

        def choose(rank: int, now: int) -> tuple[int, int]:
            i, j, k, own = i_of[rank], j_of[rank], k_of[rank], rank * B
            if j - k > share[rank] or (j == total and k < j):
                k_of[rank] = k + 1
                return backwards[k] + own + pairs, now
            forward = i < total and i - j < depth[rank]
            number = (forwards[i] if forward else backwards[j]) + own
            if arrivals[number] > now:
                return IDLE, arrivals[number]
            if forward:
                i_of[rank] = i + 1
            else:
                j_of[rank] = j + 1
            return number, now

        return choose

    return start

"""A vee for any memory and any times: a building block's order of F and B, run by events.

Building blocks that are repeated and squeezed (vee.py) hold P/3, P/2 or P micro-batches and are
made for equal times. Here a block gives no more than the order of F and B on each rank, and a pass
through the given times runs, whenever a rank is free, the first of the next few entries that is
there and finds a slot, else the oldest W, unless something arrives before a share of it is over.

Of the blocks those are tried whose memory comes nearest to `slots`, with all waits at their turns;
of the best of them, several habits. The squeezed ones that fit compete as they are. Below a block's
memory each slot costs about one F a step, which is the floor of that memory (costs/least.py).
Source: derived here.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice, product

from zeropp.generate.events import NEAR, NEVER, Outcome, Problem, run_pass
from zeropp.generate.request import Request
from zeropp.generate.strict import Habit
from zeropp.generate.vee import BuildingBlock, Sequences, follow, squeezed, v_half, v_min, zb_v
from zeropp.ir.placement import Shape
from zeropp.ir.schedule import Schedule
from zeropp.ir.timeline import evaluate

_FIRST = Habit(2, 1.0)
_HABITS = tuple(
    Habit(*pair) for pair in product((1, 2, 3, 4, 6), (0.5, 0.75, 1.0)) if pair != _FIRST
)
_WORK, _FEWEST_PASSES = 200_000, 6  # actions of all passes, about half a second
_FINALISTS = 6  # blocks that are tried with every habit


def timed_vee(request: Request) -> Schedule:
    """The best order found within `slots`, by default those of P micro-batches."""
    slots, costs = default_slots(request), request.costs_or_equal
    problem = Problem(request.placement(Shape.VEE), request.num_microbatches, costs, slots)
    made = list(_squeezed(request, slots))
    if (found := _search(problem)) is not None:
        made.append(request.schedule("vee", found.order, Shape.VEE))
    if not made:
        raise ValueError(
            f"slots: no order of the vee was found for {slots}; {enough(request)} are enough"
        )
    best = min(made, key=lambda one: evaluate(one, costs.duration, costs.latency).makespan)
    return replace(best, name="vee", params=(("slots", str(slots)),))


def default_slots(request: Request) -> int:
    """As asked for, or those of 1F1B."""
    return request.slots or 2 * request.pp_size


def enough(request: Request) -> int:
    """Those of V-Min, with which there is always an order."""
    return v_min(request.pp_size).slots(request.pp_size)


def _squeezed(request: Request, slots: int) -> Iterator[Schedule]:
    """The published vees that fit."""
    for block_of in (zb_v, v_half, v_min):
        if block_of(request.pp_size).slots(request.pp_size) <= slots:
            yield squeezed("vee", block_of, request)


def _search(problem: Problem) -> Outcome | None:
    """The best of all blocks with the first habit, and of the best blocks with the others."""
    passes = max(_FEWEST_PASSES, _WORK // (3 * problem.pairs))
    first = list(islice(_orders(problem), passes))
    finalists = list[tuple[Outcome, Sequences]]()
    for order in first:
        limit = finalists[-1][0].makespan - 1 if len(finalists) == _FINALISTS else NEVER
        if found := run_pass(problem, follow(problem, order, _FIRST), limit):
            finalists.append((found, order))
            finalists.sort(key=lambda pair: pair[0].makespan)
            del finalists[_FINALISTS:]
    best = finalists[0][0] if finalists else None
    others = product(finalists, _HABITS)
    for (_, order), habit in islice(others, passes - len(first)):
        if best is None or best.makespan <= problem.floor * NEAR:
            break
        found = run_pass(problem, follow(problem, order, habit), best.makespan - 1)
        best = found or best
    return best


def _orders(problem: Problem) -> Iterator[Sequences]:
    """Of the blocks of the three speeds whose memory comes nearest to the slots."""
    P = problem.placement.pp_size
    speeds = sorted(range(1, 6), key=lambda up: abs(BuildingBlock(1, up).slots(P) - problem.slots))
    for up, at_first, at_last in product(speeds[:3], range(4), range(3)):
        block = BuildingBlock(1, up, at_first, at_last)
        yield block.repeat(problem.placement, problem.num_microbatches)

"""ZeroPP with carried W: units back to back, their seams filled with W's of the unit before.

F order and B order are the drained order's; only their interleaving differs, and a W may run after
its unit's last B, inside the next unit.

P=4, V=2, U=4, B=8, f=b=w=1 (capitals: the second unit); 51 is the floor, in PV+P-1 slots:

    drain  rank 0  ffffffff...bwbwbwbwbwbwbwbwFFFFFFFF...BWBWBWBWBWBWBWBW
           rank 1  .ffffffff.bwbwbwbwbwbwbwbw..FFFFFFFF.BWBWBWBWBWBWBWBW.
           rank 2  ..fffffffbfb.bwbwbwbwbwbwww..FFFFFFFBFB.BWBWBWBWBWBWWW
           rank 3  ...fffffbfbfbfbbwbwbwbwwwww...FFFFFBFBFBFBBWBWBWBWWWWW

    carry  rank 0  ffffffffFFFbwbFbwbbbbbFwFwFwFBwwBwWBWWBBBBBWWWWW...
           rank 1  .ffffffffFbFbFbwbbbbbFwFwFwFBwFBwwBwWBBBBBWWWWWWW..
           rank 2  ..fffffffbfbFbFbbbbbFwFwFwFBwFBwFBwwBBBBBwWWWWWWWW.
           rank 3  ...fffffbfbfbfbbbbbFFFwFwFBwFBwFBwFBBBBBwwwWWWWWWWW

Which interleaving is best depends on the costs, so a few are tried, each evaluated exactly by an
event-driven pass (carry_pass.py): a few unit sizes near U (carry_units.py) times a few rules for
choosing between F, B and W (carry_choice.py). The first that reaches the floor ends the search, and
a pass stops as soon as it cannot beat the best so far.
"""

from dataclasses import replace
from itertools import product

from zeropp.costs import Costs
from zeropp.generate.carry_choice import NEVER, Rule
from zeropp.generate.carry_pass import Outcome, run_pass
from zeropp.generate.carry_problem import Orders, Problem
from zeropp.generate.carry_units import unit_sizes
from zeropp.generate.drain import drain
from zeropp.generate.request import Request, split_evenly
from zeropp.ir.evaluate import evaluate
from zeropp.ir.schedule import Schedule, peak_slots_per_rank

_RULES = (
    Rule(slope=2, patience=0.25),
    Rule(slope=2, patience=0.0),
    Rule(slope=2, patience=0.5),
    Rule(slope=1),
    Rule(slope=1.75),
    Rule(slope=1, patience=0.75),
    Rule(slope=2),
)
_NEAR = 1.00001  # of the floor: as good as on it
_FEWEST_PASSES, _CHEAP_ACTIONS = 10, 36_000


def carry(request: Request) -> Schedule:
    """The best order found within `slots`, by default those of interleaved 1F1B.

    At U=P, these are PV+P-1 slots.

    Raises:
        ValueError: fewer slots than (V-1)U+1, or costs for another number of stages.
    """
    P, V, total = request.pp_size, request.num_chunks, request.num_microbatches
    unit_size = request.unit_size_or_ranks()
    slots = request.slots or (V - 1) * max(unit_size, P) + 2 * P - 1
    _refuse_few_slots(V, max(split_evenly(total, -(-total // unit_size))), slots)
    placement = request.placement()
    costs = request.costs or Costs.uniform(P, V)
    problem = Problem.of(placement, total, costs)
    found = _search(problem, unit_sizes(problem, total, request.unit_size, slots), slots)
    params = (("seam", "carry"), ("slots", str(slots)), ("unit_size", str(unit_size)))
    made = Schedule("zeropp", placement, found.orders.units, found.actions(), params)
    return _or_drained(made, request, costs, slots) if unit_size == total else made


def _or_drained(made: Schedule, request: Request, costs: Costs, slots: int) -> Schedule:
    """`made`, or where there is one unit, hence no seam, the drained order unless it is slower."""
    drained = replace(drain(replace(request, slots=None)), params=made.params)
    if max(peak_slots_per_rank(drained)) > slots:
        return made
    there, here = (evaluate(s, costs.duration, costs.latency).makespan for s in (drained, made))
    return drained if there <= here * _NEAR else made


def _refuse_few_slots(num_chunks: int, largest: int, slots: int) -> None:
    """One micro-batch must reach the last chunk while all of its unit wait in the others."""
    needed = (num_chunks - 1) * largest + 1
    if slots < needed:
        raise ValueError(
            f"slots: rank 0, as every rank, needs at least {needed} ((num_chunks - 1) x {largest} "
            f"micro-batches of a unit + 1), got {slots}; raise slots or lower unit_size"
        )


def _search(problem: Problem, sizes: list[tuple[int, ...]], slots: int) -> Outcome:
    """The best of a few passes; guesses of units and rules are tried from the best pair on."""
    guesses = [Orders.of(problem.num_chunks, units) for units in sizes]
    pairs = product(range(len(guesses)), range(len(_RULES)))
    actions = 3 * problem.pp_size * len(guesses[0])
    best, limit = None, NEVER
    passes = max(_FEWEST_PASSES, _CHEAP_ACTIONS // actions)
    for guess, rule in sorted(pairs, key=sum)[:passes]:
        found = run_pass(problem, guesses[guess], slots, _RULES[rule], limit)
        if found is None:
            continue
        best, limit = found, found.makespan - 1
        if found.makespan <= problem.floor * _NEAR:
            break
    assert best is not None, "an eager pass always ends"
    return best

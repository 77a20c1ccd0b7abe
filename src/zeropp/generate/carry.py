"""ZeroPP with carried W: units back to back, their seams filled with W's of the unit before.

F order and B order are the drained order's; only their interleaving differs, and a W may run after
its unit's last B, inside the next unit. Which interleaving is best depends on the costs, so a few
are tried, each evaluated exactly by an event-driven pass (carry_pass.py): a few unit sizes near U
times a few rules for choosing between F, B and W. The first that reaches the floor ends the search,
and a pass stops as soon as it cannot beat the best so far.
"""

from dataclasses import replace
from itertools import product

from zeropp.generate.carry_pass import NEVER, Orders, Outcome, Problem, Rule, run_pass
from zeropp.generate.request import Request, split_evenly, split_within
from zeropp.ir.schedule import Schedule

Sizes = tuple[int, ...]

NEAR = 1.00001  # of the floor: as good as on it
_RULES = (
    Rule(slope=2, patience=0.25),
    Rule(slope=2, patience=0.0),
    Rule(slope=2, patience=0.5),
    Rule(slope=1),
    Rule(slope=1.75),
    Rule(slope=1, patience=0.75),
    Rule(slope=2),
)
_FEWEST_PASSES, _CHEAP_ACTIONS = 10, 36_000


def carried(request: Request) -> Schedule:
    """The best order found within `slots`."""
    V, unit_size = request.num_chunks, request.unit_size_or_ranks
    slots = request.slots or default_slots(request)
    largest = split_within(request.num_microbatches, unit_size)[0]
    # one micro-batch must reach the last chunk while all of its unit wait in the others
    if slots < (needed := (V - 1) * largest + 1):
        raise ValueError(
            f"slots: rank 0, as every rank, needs at least {needed} ((num_chunks - 1) x {largest} "
            f"micro-batches of a unit + 1), got {slots}; raise slots or lower unit_size"
        )
    found = _search(Problem(request, slots), request.unit_size)
    params = (("seam", "carry"), ("slots", str(slots)), ("unit_size", str(unit_size)))
    return replace(request.schedule("zeropp", found.order), units=found.orders.units, params=params)


def default_slots(request: Request) -> int:
    """Those of interleaved 1F1B: PV+P-1 at U=P."""
    P, V = request.pp_size, request.num_chunks
    return (V - 1) * max(request.unit_size_or_ranks, P) + 2 * P - 1


def _search(problem: Problem, unit_size: int | None) -> Outcome:
    """The best of a few passes; guesses of units and rules are tried from the best pair on."""
    guesses = [Orders(problem.num_chunks, units) for units in _unit_sizes(problem, unit_size)]
    pairs = product(range(len(guesses)), range(len(_RULES)))
    actions = 3 * problem.pp_size * len(guesses[0])
    best, limit = None, NEVER
    passes = max(_FEWEST_PASSES, _CHEAP_ACTIONS // actions)
    for guess, rule in sorted(pairs, key=sum)[:passes]:
        found = run_pass(problem, guesses[guess], _RULES[rule], limit)
        if found is None:
            continue
        best, limit = found, found.makespan - 1
        if found.makespan <= problem.floor * NEAR:
            break
    assert best is not None, "an eager pass always ends"
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
    total = problem.num_microbatches
    near = unit_size or min(problem.pp_size, total)
    even = _nearly_equal(total, near)
    if problem.num_chunks == 1:
        return even[:1]  # the orders are the same for all sizes
    hiding = _hiding_size(problem)
    led: list[Sizes] = []
    if near < hiding < total:
        led = [(hiding, *rest) for rest in _nearly_equal(total - hiding, near)]
    guesses = [*even[1:2], *led[:2], *even[2:]]
    if unit_size is None:
        guesses.append(split_evenly(total, max(1, total // hiding)))
    else:
        guesses = [sizes for sizes in guesses if max(sizes[1:] or sizes) < 2 * unit_size]
    fitting = [s for s in guesses if (problem.num_chunks - 1) * max(s) < problem.slots]
    return list(dict.fromkeys([even[0], *fitting]))


def _nearly_equal(total: int, largest: int) -> list[Sizes]:
    """With the fewest units that keep all within `largest`, then with one and two units fewer."""
    parts = len(split_within(total, largest))
    return [split_evenly(total, n) for n in range(parts, max(0, parts - 3), -1)]


def _hiding_size(problem: Problem) -> int:
    """The fewest micro-batches whose F's, in the slowest stage, last for one round of any chunk."""
    hops = problem.pp_size * problem.latency
    by_chunk = zip(*problem.durations[0], strict=True)
    sizes: list[int] = [-(-(sum(times) + hops) // max(times)) for times in by_chunk]
    return max(sizes)

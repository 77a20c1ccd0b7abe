"""ZeroPP with carried W: units back to back, their seams filled with W's of the unit before.

F order and B order are the drained order's; what runs between them differs, and a W may run after
its unit's last B, inside the next unit. It goes by the costs, in two ways:

    strict    also keeps how the drained order mixes F and B: fewest gathers, and the floor in V U
              slots where a unit's W's fill its seam (strict.py)
    eager     mixes F's and B's of neighbouring units: the floor where W's are short, in V U and a
              few more slots, for more gathers where one stage is resident (eager.py)

Carried is the better of both: strict, unless eager is faster.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from zeropp.generate.eager import eager
from zeropp.generate.events import NEAR, NEVER, Outcome, Problem
from zeropp.generate.request import Request, split_within
from zeropp.generate.strict import strict, with_gathers
from zeropp.generate.units import Sizes
from zeropp.ir.schedule import Schedule

_Way = Callable[[Problem, int | None, int], tuple[Outcome, Sizes] | None]


def _eager(problem: Problem, unit_size: int | None, limit: int) -> tuple[Outcome, Sizes] | None:
    """Eager passes know of no gathers: the mix of F and B that they find is run again with them."""
    found = eager(problem, unit_size, limit)
    return with_gathers(problem, *found, limit) if found and problem.visited else found


_WAYS: Mapping[str, _Way] = MappingProxyType({"strict": strict, "eager": _eager})
SEAMS = ("carry", *_WAYS)


def carried(request: Request) -> Schedule:
    """The best order found within `slots`."""
    slots = request.slots or default_slots(request)
    _refuse_too_few(request, slots)
    costs, B = request.costs_or_equal, request.num_microbatches
    problem = Problem(request.placement(), B, costs, slots, request.max_resident)
    ways = [(n, way) for n, way in _WAYS.items() if request.seam in (None, "carry", n)]
    best, limit = None, NEVER
    for name, way in ways:
        if found := way(problem, request.unit_size, limit):
            best = name, *found
            limit = int(found[0].makespan / NEAR)
        if limit <= problem.floor:
            break
    assert best is not None, "an eager pass always ends, and so does one that looks far ahead"
    seam, outcome, units = best
    knobs = {"seam": seam, "slots": slots, "unit_size": request.unit_size_or_ranks}
    params = tuple((name, str(value)) for name, value in knobs.items())
    return replace(request.schedule("zeropp", outcome.order), units=units, params=params)


def _refuse_too_few(request: Request, slots: int) -> None:
    """One micro-batch must reach the last chunk while all of its unit wait in the others."""
    largest = split_within(request.num_microbatches, request.unit_size_or_ranks)[0]
    if slots < (needed := (request.num_chunks - 1) * largest + 1):
        raise ValueError(
            f"slots: rank 0, as every rank, needs at least {needed} ((num_chunks - 1) x {largest} "
            f"micro-batches of a unit + 1), got {slots}; raise slots or lower unit_size"
        )


def default_slots(request: Request) -> int:
    """Those of interleaved 1F1B: PV+P-1 at U=P."""
    P, V = request.pp_size, request.num_chunks
    return (V - 1) * max(request.unit_size_or_ranks, P) + 2 * P - 1

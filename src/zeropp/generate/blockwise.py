"""ZeroPP: units of U micro-batches, run blockwise, with W staggered into the bubble.

Source: arXiv 2402.03791. Between two units the paper's order drains (`seam="drain"`); carried W's
fill that seam (`seam="carry"`, the default: carry.py).
"""

from collections.abc import Iterator
from dataclasses import replace

from zeropp.generate.carry import NEAR, carried, default_slots
from zeropp.generate.loop import alternate
from zeropp.generate.request import Request, in_blocks, split_within
from zeropp.ir.action import Action, Kind
from zeropp.ir.earliest import evaluate
from zeropp.ir.schedule import Schedule, peak_slots_per_rank


def zeropp(request: Request) -> Schedule:
    """The order of the seam that is asked for.

    Raises:
        ValueError: a seam other than `carry` and `drain`, or what the seam's order refuses.
    """
    if request.seam not in (None, "carry", "drain"):
        raise ValueError(f"seam must be carry or drain, got {request.seam!r}")
    if not carries(request):
        return drained(request)
    made = carried(request)
    one_unit = request.unit_size_or_ranks == request.num_microbatches
    return _or_drained(made, request) if one_unit else made


def drained(request: Request) -> Schedule:
    """Units one after the other, each empty before the next starts; nearly equal, none above U.

    Two corrections of the order's public implementation: the first W follows B number 2p (not
    2p + 1), and units smaller than P work.

    Raises:
        ValueError: `slots` is given.
    """
    if request.slots is not None:
        raise ValueError("slots is a knob of seam carry; leave it out with seam drain")
    unit_size, placement = request.unit_size_or_ranks, request.placement()
    units = split_within(request.num_microbatches, unit_size)

    def order(rank: int) -> Iterator[Action]:
        for unit in in_blocks(units):
            yield from alternate(placement, rank, [unit], Kind.B, ahead=2, delay=2)

    params = (("seam", "drain"), ("unit_size", str(unit_size)))
    return replace(request.schedule("zeropp", order), units=units, params=params)


def carries(request: Request) -> bool:
    """Whether W's are carried, and the order hence goes by times."""
    return request.seam != "drain"


def held(request: Request) -> int:
    """What a rank holds at most: of a carried order all that it may, by default."""
    if carries(request):
        return default_slots(request)
    P, U = request.pp_size, request.unit_size_or_ranks
    return (request.num_chunks - 1) * U + 2 * P - 1


def first_unit(request: Request) -> int:
    """At least so many micro-batches are in the first unit; a carried order may cut a default U."""
    U = 1 if carries(request) else request.unit_size_or_ranks
    return split_within(request.num_microbatches, request.unit_size or U)[0]


def fewest_units(request: Request) -> int:
    """At least so many units are made; see `unit_sizes` for how carried orders merge them."""
    V, B, U = request.num_chunks, request.num_microbatches, request.unit_size
    if V == 1 or not carries(request):
        return len(split_within(B, request.unit_size_or_ranks))
    if U is None:
        return 1
    first = min(B, ((request.slots or default_slots(request)) - 1) // (V - 1))
    return 1 - (first - B) // (2 * U - 1)


def _or_drained(made: Schedule, request: Request) -> Schedule:
    """`made`, or where there is one unit, hence no seam, the drained order unless it is slower."""
    drains = replace(drained(replace(request, slots=None)), params=made.params)
    if max(peak_slots_per_rank(drains)) > (request.slots or default_slots(request)):
        return made
    costs = request.costs_or_equal
    there, here = (evaluate(s, costs.duration, costs.latency).makespan for s in (drains, made))
    return drains if there <= here * NEAR else made

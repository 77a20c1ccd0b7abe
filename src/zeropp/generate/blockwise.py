"""ZeroPP: units of U micro-batches, run blockwise, with W staggered into the bubble.

Source: arXiv 2402.03791. Between two units the paper's order drains (`seam="drain"`); carried W's
fill that seam (`seam="carry"`, the default: carry.py).

A larger unit visits each chunk less often, so sharded parameters are gathered less often, and holds
more activations. Among the unit sizes that fit a memory budget the fastest is taken, and of those
that are as fast the largest: the adaptive part of ZeroPP's units.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from zeropp.generate.carry import SEAMS, carried, default_slots
from zeropp.generate.events import NEAR
from zeropp.generate.loop import alternate
from zeropp.generate.request import Request, split_within
from zeropp.ir.action import Action, Kind
from zeropp.ir.placement import in_blocks
from zeropp.ir.schedule import Schedule
from zeropp.ir.slots import peak_slots_per_rank
from zeropp.ir.timeline import evaluate

_AS_FAST = 1.001


def zeropp(request: Request) -> Schedule:
    """The order of the seam that is asked for; where there is one unit, the drained if faster."""
    if request.seam not in (None, "drain", *SEAMS):
        raise ValueError(f"seam must be {', '.join(SEAMS)} or drain, got {request.seam!r}")
    if not carries(request):
        return _drained(request)
    made = carried(request)
    if request.unit_size_or_ranks < request.num_microbatches:
        return made
    drains = replace(_drained(replace(request, slots=None)), params=made.params)
    fits = max(peak_slots_per_rank(drains)) <= (request.slots or default_slots(request))
    faster = fits and _makespan(drains, request) <= _makespan(made, request) * NEAR
    return drains if faster else made


def _drained(request: Request) -> Schedule:
    """Units one after the other, each empty before the next starts; nearly equal, none above U.

    Two corrections of the order's public implementation: the first W follows B number 2p (not
    2p + 1), and units smaller than P work.
    """
    if request.slots is not None:
        raise ValueError("slots is a knob of carried seams; leave it out with seam drain")
    unit_size, placement = request.unit_size_or_ranks, request.placement()
    units = split_within(request.num_microbatches, unit_size)

    def order(rank: int) -> Iterator[Action]:
        for unit in in_blocks(units):
            yield from alternate(placement, rank, [unit], Kind.B, ahead=2, delay=2)

    params = (("seam", "drain"), ("unit_size", str(unit_size)))
    return replace(request.schedule("zeropp", order), units=units, params=params)


def _makespan(schedule: Schedule, request: Request) -> float:
    costs = request.costs_or_equal
    return evaluate(schedule, costs.duration, costs.latency).makespan


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
    """At least so many units are made; see carry.py for how carried orders merge them."""
    V, B, U = request.num_chunks, request.num_microbatches, request.unit_size
    if not carries(request) or (V == 1 and U is not None):
        return len(split_within(B, request.unit_size_or_ranks))
    if U is None:
        return 1
    first = min(B, ((request.slots or default_slots(request)) - 1) // (V - 1))
    return 1 - (first - B) // (2 * U - 1)


@dataclass(frozen=True)
class Budget:
    """Memory for the activations of one rank.

    Attributes:
        memory: in bytes (or any unit that `slot` has too).
        slot: bytes that one chunk holds of one micro-batch, from F until its W.

    Raises:
        ValueError: a number that is not above 0, or not finite.
    """

    memory: float
    slot: float

    def __post_init__(self) -> None:
        for name, value in (("budget", self.memory), ("slot_bytes", self.slot)):
            if not math.isfinite(value) or value <= 0:
                raise ValueError(f"{name} must be a finite number above 0, got {value}")

    @property
    def slots(self) -> int:
        """How many slots it holds."""
        return int(self.memory // self.slot)


def within_budget(request: Request, budget: Budget) -> Schedule:
    """The best ZeroPP schedule within `budget`; a `unit_size` in the request is kept."""
    total, slots = request.num_microbatches, budget.slots
    # one, or each that cuts the batch into another number of units
    every = sorted({-(-total // parts) for parts in range(1, total + 1)})
    sizes = [request.unit_size] if request.unit_size else every
    wanted = [replace(request, unit_size=size) for size in sizes]
    fitting = [made for one in wanted if (made := _within(one, slots))]
    if not fitting:
        U, needed = wanted[0].unit_size, _least_slots(wanted[0])
        if not carries(request):
            needed = max(peak_slots_per_rank(zeropp(wanted[0])))
        raise ValueError(
            f"budget: {budget.memory:g} bytes hold {slots} slots of {budget.slot:g}; "
            f"unit_size {U} with {request.num_chunks} chunks needs at least "
            f"{needed * budget.slot:g}"
        )
    spans = [_makespan(made, request) for made in fitting]
    near = min(spans) * _AS_FAST
    fast = (made for made, span in zip(fitting, spans, strict=True) if span <= near)
    return max(fast, key=lambda made: max(made.units))


def _within(request: Request, slots: int) -> Schedule | None:
    """The schedule that is asked for, or None if it does not fit `slots`."""
    if _least_slots(request) > slots:
        return None
    made = zeropp(replace(request, slots=slots if carries(request) else None))
    return made if max(peak_slots_per_rank(made)) <= slots else None


def _least_slots(request: Request) -> int:
    return (request.num_chunks - 1) * request.unit_size_or_ranks + 1

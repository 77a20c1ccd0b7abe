"""Choosing U and the slots from a memory budget: the adaptive part of ZeroPP's units.

A larger unit visits each chunk less often, so sharded parameters are gathered less often, and holds
more activations. Among the unit sizes that fit the budget the fastest is taken, and of those that
are as fast the largest.
"""

import math
from dataclasses import dataclass, replace

from zeropp.generate.blockwise import carries, zeropp
from zeropp.generate.request import Request
from zeropp.ir.earliest import evaluate
from zeropp.ir.schedule import Schedule, peak_slots_per_rank

_AS_FAST = 1.001


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
        """How many slots fit."""
        return int(self.memory // self.slot)


def within_budget(request: Request, budget: Budget) -> Schedule:
    """The best ZeroPP schedule within `budget`; a `unit_size` in the request is kept.

    Raises:
        ValueError: no unit fits; the message names the smallest budget that works.
    """
    fitting = [made for U in _unit_sizes(request) if (made := _within(request, U, budget.slots))]
    if not fitting:
        U = request.unit_size or 1
        needed = _least_slots(request, U)
        if not carries(request):
            needed = max(peak_slots_per_rank(zeropp(replace(request, unit_size=U))))
        raise ValueError(
            f"budget: {budget.memory:g} bytes hold {budget.slots} slots of {budget.slot:g}; "
            f"unit_size {U} with {request.num_chunks} chunks needs at least "
            f"{needed * budget.slot:g}"
        )
    costs = request.costs_or_equal
    spans = [evaluate(made, costs.duration, costs.latency).makespan for made in fitting]
    near = min(spans) * _AS_FAST
    fast = (made for made, span in zip(fitting, spans, strict=True) if span <= near)
    return max(fast, key=lambda made: max(made.units))


def _unit_sizes(request: Request) -> list[int]:
    """The unit asked for, or each that cuts the batch into another number of units."""
    if request.unit_size is not None:
        return [request.unit_size]
    total = request.num_microbatches
    return sorted({-(-total // parts) for parts in range(1, total + 1)})


def _within(request: Request, unit_size: int, slots: int) -> Schedule | None:
    """The schedule with this unit size, or None if it does not fit `slots`."""
    if _least_slots(request, unit_size) > slots:
        return None
    wanted = replace(request, unit_size=unit_size, slots=slots if carries(request) else None)
    made = zeropp(wanted)
    return made if max(peak_slots_per_rank(made)) <= slots else None


def _least_slots(request: Request, unit_size: int) -> int:
    return (request.num_chunks - 1) * unit_size + 1

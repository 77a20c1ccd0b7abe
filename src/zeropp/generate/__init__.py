"""Schedules by name; each generator is a pure function from a `Request` to a `Schedule`."""

from typing import Literal

from zeropp.costs import Costs
from zeropp.generate.automatic import Budget, within_budget
from zeropp.generate.catalogue import GENERATORS, Generator
from zeropp.generate.refine import refined
from zeropp.generate.request import Request
from zeropp.ir.collector import collector_paused
from zeropp.ir.schedule import Schedule

Auto = Literal["auto"]


@collector_paused
def generate(
    name: str,
    pp_size: int,
    num_chunks: int,
    num_microbatches: int,
    *,
    unit_size: int | Auto | None = None,
    seam: str | None = None,
    slots: int | Auto | None = None,
    costs: Costs | None = None,
    budget: Budget | None = None,
    refine: bool = False,
) -> Schedule:
    """Make the schedule called `name`.

    Args:
        name: a key of `GENERATORS`.
        pp_size: P.
        num_chunks: V.
        num_microbatches: B.
        unit_size: U, micro-batches per unit; `auto`: the best within `budget`.
        seam: `carry` or `drain`.
        slots: most activations (one chunk of one micro-batch each) that a rank may hold; `auto`:
            those that `budget` holds.
        costs: what the schedule is made for; generators that do not go by times ignore it.
        budget: memory for activations, which `auto` needs.
        refine: improve the order for `costs`, whichever schedule it is; within `slots`, by default
            those that the schedule holds.

    Raises:
        ValueError: unknown name, a size out of range, a knob that the schedule does not have, or a
            budget that is missing, superfluous or too small.
    """
    if name not in GENERATORS:
        raise ValueError(f"unknown schedule {name!r}; choose one of {', '.join(GENERATORS)}")
    generator = GENERATORS[name]
    for option, value in (("unit_size", unit_size), ("seam", seam), ("slots", slots)):
        limits = refine and option == "slots" and value != "auto"
        if value is not None and option not in generator.options and not limits:
            refining = ", or refine the schedule" if option == "slots" else ""
            raise ValueError(f"{option} is not a knob of {name}; leave it out{refining}")
    fixed_unit = None if unit_size == "auto" else unit_size
    fixed_slots = None if slots == "auto" else slots
    sizes = (pp_size, num_chunks, num_microbatches)
    request = Request(*sizes, fixed_unit, seam, fixed_slots, costs)
    chooses = slots == "auto" or (unit_size == "auto" and slots is None)
    if chooses != (budget is not None):
        wanted = "slots auto needs a budget" if chooses else "budget goes with slots auto"
        raise ValueError(f"budget: {wanted} (bytes for activations, and bytes of a slot)")
    generator.refuse_chunks(name, num_chunks)
    if unit_size == "auto" or budget is not None:
        made = within_budget(request, budget or Budget(memory=float(fixed_slots or 0), slot=1.0))
    else:
        made = generator.make(request)
    return refined(made, request.costs_or_equal, fixed_slots) if refine else made


__all__ = ["GENERATORS", "Budget", "Generator", "Request", "generate"]

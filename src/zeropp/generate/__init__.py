"""Schedules by name; each generator is a pure function from a `Request` to a `Schedule`."""

from dataclasses import replace

from zeropp.costs import Costs
from zeropp.generate.blockwise import Budget, within_budget
from zeropp.generate.catalogue import GENERATORS, Generator
from zeropp.generate.refine import refined
from zeropp.generate.request import Request
from zeropp.ir.collector import collector_paused
from zeropp.ir.order import Order
from zeropp.ir.schedule import Schedule


@collector_paused()
def generate(
    order: Order,
    pp_size: int,
    num_chunks: int,
    num_microbatches: int,
    *,
    costs: Costs | None = None,
    budget: Budget | None = None,
    max_resident: int | None = None,
) -> Schedule:
    """Make the schedule that `order` names.

    Args:
        order: a key of `GENERATORS` and knobs; refined within `slots`, by default those that the
            schedule holds.
        pp_size: P.
        num_chunks: V.
        num_microbatches: B.
        costs: what the schedule is made for; generators that do not go by times ignore it.
        budget: memory for activations, which knobs that are `auto` may need.
        max_resident: most stages of a rank that will be gathered at once, where gathers take time
            and the generator goes by that; None: parameters stay.

    Raises:
        ValueError: unknown name, a size out of range, a knob that the schedule does not have, or a
            budget that is missing, superfluous or too small.
    """
    generator = _generator_of(order)
    unit_size, slots = (None if v == "auto" else v for v in (order.unit_size, order.slots))
    sizes = (pp_size, num_chunks, num_microbatches)
    request = Request(*sizes, unit_size, order.seam, slots, costs, max_resident)
    chooses = order.slots == "auto" or (order.unit_size == "auto" and slots is None)
    if chooses != (budget is not None):
        wanted = "slots auto needs a budget" if chooses else "budget goes with slots auto"
        raise ValueError(f"budget: {wanted} (bytes for activations, and bytes of a slot)")
    generator.refuse_chunks(num_chunks)
    made = _made(generator, request, budget, order.unit_size == "auto")
    return refined(made, request.costs_or_equal, request.slots) if order.refine else made


def _made(
    generator: Generator, request: Request, budget: Budget | None, any_unit: bool
) -> Schedule:
    """The schedule, where a unit or slots are left open the best that fits."""
    if "unit_size" in generator.options and (any_unit or budget is not None):
        return within_budget(request, budget or Budget(memory=float(request.slots or 0), slot=1.0))
    return generator.make(request if budget is None else replace(request, slots=budget.slots))


def _generator_of(order: Order) -> Generator:
    """The generator by its name, which has the knobs that are given."""
    name = order.schedule
    if name not in GENERATORS:
        raise ValueError(f"unknown schedule {name!r}; choose one of {', '.join(GENERATORS)}")
    for knob, value in order.knobs.items():
        limits = order.refine and knob == "slots" and value != "auto"
        if knob not in GENERATORS[name].options and not limits:
            refining = ", or refine the schedule" if knob == "slots" else ""
            raise ValueError(f"{knob} is not a knob of {name}; leave it out{refining}")
    return GENERATORS[name]


__all__ = ["GENERATORS", "Budget", "Generator", "Request", "generate"]

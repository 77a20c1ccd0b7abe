"""A made order: its compute actions, how long they take without collectives, and what they hold.

Neither depends on how parameters are sharded, so that one made order serves many layouts.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate

from zeropp import ir
from zeropp.costs import Costs
from zeropp.generate import generate
from zeropp.ir.action import Kind
from zeropp.ir.schedule import Schedule
from zeropp.planner.order import Order
from zeropp.planner.pricing import Priced
from zeropp.program.lowering import lower
from zeropp.simulate.engine import run_program


@dataclass(frozen=True)
class Made:
    """Schedules of one order, or of two shorter batches that stand for a large one.

    Attributes:
        schedules: one, or a shorter and a longer one.
        beyond: how many times the difference of the two is added to the longer one.
        activations: for each rank, the most bytes that its micro-batches hold.
        costs: compute times, and those of messages on their way.
    """

    schedules: tuple[Schedule, ...]
    beyond: float
    activations: tuple[float, ...]
    costs: Costs

    @cached_property
    def makespan(self) -> float:
        """Seconds without collectives; simulated when first asked for."""
        spans = [run_program(lower(s), self.costs).makespan for s in self.schedules]
        return spans[-1] + self.beyond * (spans[-1] - spans[0])


def make(priced: Priced, order: Order, batches: tuple[int, ...], beyond: float) -> Made:
    """Generate an order for one or two batches."""
    schedules = tuple(schedule_of(priced, order, batch) for batch in batches)
    held = tuple(_held(schedules[-1], rank, priced.costs) for rank in range(priced.layout.pp_size))
    return Made(schedules, beyond, held, replace(priced.costs, host=0.0, optimizer=0.0))


def schedule_of(priced: Priced, order: Order, batch: int) -> Schedule:
    """The compute order for a batch, made for the layout's costs."""
    placement = priced.layout.placement
    named = ir.Order(order.schedule, order.unit_size, order.seam, order.slots)
    sizes = placement.pp_size, placement.num_chunks, batch
    return generate(named, *sizes, costs=costs_for(priced, order))


def costs_for(priced: Priced, order: Order) -> Costs | None:
    """What an order is made for; None for the schedules that do not go by times."""
    request = order.request(priced.layout.placement, priced.num_microbatches)
    return priced.made_for if order.generator.by_times(request) else None


def _held(schedule: Schedule, rank: int, costs: Costs) -> float:
    """Activations are taken by F, shrink to what W needs in B, and are freed by W, or by BW."""

    def change(kind: Kind, stage: int) -> float:
        if kind is Kind.F:
            return costs.until_backward[stage]
        if kind is Kind.W:
            return -costs.until_weight[stage]
        kept = costs.until_weight[stage] if kind is Kind.B else 0.0
        return kept - costs.until_backward[stage]

    return max(accumulate(change(kind, stage) for kind, stage, _ in schedule.actions[rank]))

"""A made order: its compute actions, how long they take without collectives, and what they hold.

Neither depends on how parameters are sharded, so that one made order serves many layouts.
"""

from dataclasses import dataclass
from functools import cached_property

from zeropp import ir
from zeropp.costs import Costs, Traffic
from zeropp.generate import generate
from zeropp.ir.action import BACKWARD, Kind
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
        costs: compute times, and the latency of a hop.
        transfers: times of messages.
    """

    schedules: tuple[Schedule, ...]
    beyond: float
    activations: tuple[float, ...]
    costs: Costs
    transfers: Traffic

    @cached_property
    def makespan(self) -> float:
        """Seconds without collectives; simulated when first asked for."""
        spans = [run_program(lower(s), self.costs, self.transfers).makespan for s in self.schedules]
        return spans[-1] + self.beyond * (spans[-1] - spans[0])


def make(priced: Priced, order: Order, batches: tuple[int, ...], beyond: float) -> Made:
    """Generate an order for one or two batches."""
    schedules = tuple(schedule_of(priced, order, batch) for batch in batches)
    held = tuple(_held(schedules[-1], rank, priced) for rank in range(priced.layout.pp_size))
    transfers = Traffic(transfer=priced.traffic.transfer)
    return Made(schedules, beyond, held, priced.costs, transfers)


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


def _held(schedule: Schedule, rank: int, priced: Priced) -> float:
    """Activations are taken by F, shrink to what W needs in B, and are freed by W, or by BW."""
    blocks = priced.stages.blocks
    held = peak = 0.0
    for kind, stage, _ in schedule.actions[rank]:
        block = blocks[stage]
        if kind is Kind.F:
            held += block.until_backward
        elif kind is Kind.W:
            held -= block.until_weight
        elif kind in BACKWARD:
            held += (block.until_weight if kind is Kind.B else 0.0) - block.until_backward
        peak = max(peak, held)
    return peak

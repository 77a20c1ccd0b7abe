"""Predict what a made order takes under a layout: lower it, simulate it, extend it if need be."""

from zeropp.planner.made import Made, make
from zeropp.planner.order import Order
from zeropp.planner.prediction import Prediction, shorter_batches
from zeropp.planner.pricing import Priced
from zeropp.program.lowering import lower
from zeropp.simulate import simulate

PREFETCH = 2  # actions ahead; `max_resident` bounds what it holds
MOST_ACTIONS = 30_000  # of one simulation in a search; about a second


def made_order(priced: Priced, order: Order, most_actions: int = MOST_ACTIONS) -> Made:
    """The order for the layout's batch, or, of too many actions, for two shorter ones."""
    placement, B = priced.layout.placement, priced.num_microbatches
    period = order.generator.period(order.request(placement, B))
    if period is not None:
        batches = shorter_batches(placement.num_stages, B, period, most_actions)
        if batches is not None:
            return make(priced, order, batches, (B - batches[1]) / period)
    return make(priced, order, (B,), 0.0)


def predict(priced: Priced, order: Order, made: Made) -> Prediction:
    """One step with its collectives and memory."""
    programs = [
        lower(schedule, order.shard, max_resident=order.max_resident, prefetch=PREFETCH)
        for schedule in made.schedules
    ]
    found = [Prediction.of(simulate(program, priced.costs)) for program in programs]
    return found[0].extend(found[1], made.beyond) if len(found) > 1 else found[0]

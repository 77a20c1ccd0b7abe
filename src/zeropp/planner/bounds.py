"""Bounds: no order of a layout is faster, and none needs less memory.

time     the first gather, the floor of the placement, the last reduction, the optimizer;
         or all gathers and reductions of a rank, one after the other
memory   states, workspace, the parameters of one stage, and the activations that are held
         when the first micro-batches reach a rank's last chunk
"""

from collections import defaultdict

from zeropp.costs import floor
from zeropp.ir.program import Policy
from zeropp.planner.order import Order
from zeropp.planner.predict import Made
from zeropp.planner.pricing import Priced


def time_bound(priced: Priced, compute: float | None = None) -> float:
    """Seconds below which no order of the layout gets, or none with a floor of `compute`."""
    compute = priced.compute_floor if compute is None else compute
    busiest = max(_collectives(priced, 0, 1), _busiest_channel(priced))
    return max(compute + _exposed(priced), busiest) + priced.costs.optimizer


def held_time_bound(priced: Priced, usable: float) -> float:
    """Seconds below which no order gets whose activations fit `usable` bytes beside the states."""
    costs, stays, bound = priced.costs, _stays(priced), 0.0
    for stages in priced.by_rank:
        room = usable - _always(priced, stages)
        held = sum(
            costs.until_backward[s] * stays[s] + costs.until_weight[s] * costs.weight[s]
            for s in stages
        )
        bound = max(bound, priced.num_microbatches * held / room) if room > 0 else float("inf")
    return bound


def order_time_bound(priced: Priced, order: Order) -> float:
    """Seconds below which this order does not get, whatever is made of it."""
    B, stays, weight = priced.num_microbatches, _stays(priced), priced.costs.weight
    slots = order.generator.most_slots(priced.request(order))  # of the first rank: Little's law
    held = B * sum(stays[stage] + weight[stage] for stage in priced.by_rank[0]) / slots
    collectives = _order_collectives(priced, order) + priced.costs.optimizer
    return max(time_bound(priced, _floor(priced, order)), held, collectives)


def made_time_bound(priced: Priced, order: Order, made: Made) -> float:
    """The same for what was made of the order."""
    alone = made.makespan + _exposed(priced)
    return max(alone, _order_collectives(priced, order)) + priced.costs.optimizer


def memory_bound(priced: Priced, order: Order | None = None) -> float:
    """Bytes that a plan of the layout needs at least, on its fullest rank."""
    held = priced.costs.until_backward
    first = 1 if order is None else order.generator.first_turn(priced.request(order))
    return max(
        first * sum(held[stage] for stage in stages[:-1])
        + held[stages[-1]]
        + _always(priced, stages, order)
        for stages in priced.by_rank
    )


def made_memory_bound(priced: Priced, order: Order, made: Made, slots: int | None = None) -> float:
    """The same for what was made of the order: what it holds, and one stage's parameters.

    With more `slots`, an estimate: that it would use as many, in proportion.
    """
    share = (slots or made.slots) / made.slots
    return max(
        _always(priced, stages, order) + share * held
        for stages, held in zip(priced.by_rank, made.activations, strict=True)
    )


def _floor(priced: Priced, order: Order) -> float:
    """Without collectives, of orders that split as this one does, and in its slots."""
    if order.generator.fused:
        return priced.fused_floor
    if order.slots is None:
        return priced.compute_floor
    B = priced.num_microbatches
    return floor(priced.layout.placement, B, priced.fastest_hop, order.slots)


def _stays(priced: Priced) -> list[float]:
    """For each stage, how long a micro-batch takes at least from its F's start to its B's end."""
    costs, hops = priced.fastest_hop, priced.layout.placement.hops
    stays, after = [], 0.0
    for stage in reversed(range(costs.num_stages)):
        after += costs.forward[stage] + costs.backward[stage] + 2 * costs.latency * hops[stage]
        stays.append(after)
    return stays[::-1]


def _exposed(priced: Priced) -> float:
    """Seconds of collectives that nothing can hide: the first gather and the last reduction."""
    return priced.costs.gather[0] + min(priced.costs.reduce)


def _order_collectives(priced: Priced, order: Order) -> float:
    B, V = priced.num_microbatches, priced.layout.placement.num_chunks
    if order.shard is Policy.STEP:
        return 0.0
    if order.shard is Policy.MICROBATCH:
        return _collectives(priced, 2 * B * V - V, B)
    units = order.generator.fewest_units(priced.request(order))
    return _collectives(priced, (units - 1) * max(0, V - order.max_resident), units)


def _always(priced: Priced, stages: tuple[int, ...], order: Order | None = None) -> float:
    """States, workspace and the parameters of the smallest stage, or of all, if they stay."""
    costs = priced.costs
    gathered = [costs.gathered[stage] for stage in stages]
    held = sum(costs.parameters[s] for s in stages) + sum(costs.optimizer_state[s] for s in stages)
    held += max(costs.workspace[stage] for stage in stages)
    stay = order is not None and order.shard is Policy.STEP
    return held + (sum(gathered) if stay else min(gathered))


def _collectives(priced: Priced, more_gathers: int, reduces: int) -> float:
    """A rank's gathers, each stage once and `more_gathers` of any, and its reductions."""
    gathers, reductions = priced.costs.gather, priced.costs.reduce
    return max(
        sum(gathers[s] + reduces * reductions[s] for s in stages)
        + more_gathers * min(gathers[s] for s in stages)
        for stages in priced.by_rank
    )


def _busiest_channel(priced: Priced) -> float:
    """All messages between two ranks in one direction, one after the other."""
    placement, busy = priced.layout.placement, defaultdict[tuple[int, int], float](float)
    for stage, seconds in enumerate(priced.costs.transfer):
        if placement.hops[stage]:
            ranks = placement.rank_of(stage), placement.rank_of(stage + 1)
            busy[ranks] += priced.num_microbatches * seconds
    return max(busy.values(), default=0.0)

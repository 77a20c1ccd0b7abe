"""Bounds: no order of a layout is faster, and none needs less memory.

    time     the first gather, the floor of the placement, the last reduction, the optimizer;
             or all gathers and reductions of a rank, one after the other
    memory   states, workspace, the parameters of one stage, and the activations that are held
             when the first micro-batches reach a rank's last chunk
"""

from zeropp.costs import Bytes, Costs, PerStage, at_stage, floor
from zeropp.lower import Policy
from zeropp.plan.made import Made
from zeropp.plan.order import Order
from zeropp.plan.pricing import Priced


def time_bound(priced: Priced, *, fused: bool = False) -> float:
    """Seconds below which no order of the layout gets; `fused`: none that runs B and W as one."""
    costs = _fused(priced.fastest_hop) if fused else priced.fastest_hop
    compute = floor(priced.layout.placement, priced.num_microbatches, costs)
    with_collectives = compute + exposed(priced)
    return max(with_collectives, _collectives(priced, 0, 1)) + priced.traffic.optimizer


def exposed(priced: Priced) -> float:
    """Seconds of collectives that nothing can hide: the first gather and the last reduction."""
    return at_stage(priced.traffic.gather, 0) + min(_each(priced.traffic.reduce, priced))


def _fused(costs: Costs) -> Costs:
    backward = tuple(b + w for b, w in zip(costs.backward, costs.weight, strict=True))
    return Costs(costs.forward, backward, (0.0,) * costs.num_stages, costs.latency)


def order_time_bound(priced: Priced, order: Order) -> float:
    """Seconds below which this order does not get, whatever is made of it."""
    bound = time_bound(priced, fused=order.fused)
    return max(bound, _order_collectives(priced, order) + priced.traffic.optimizer)


def made_time_bound(priced: Priced, order: Order, made: Made) -> float:
    """The same for what was made of the order."""
    alone = made.makespan + exposed(priced)
    return max(alone, _order_collectives(priced, order)) + priced.traffic.optimizer


def made_memory_bound(priced: Priced, order: Order, made: Made) -> float:
    """The same for what was made of the order: what it holds, and one stage's parameters."""
    placement = priced.layout.placement
    return max(
        _always(priced.sizes, placement.stages_of(rank), order.shard is Policy.STEP) + held
        for rank, held in enumerate(made.activations)
    )


def _order_collectives(priced: Priced, order: Order) -> float:
    B, V = priced.num_microbatches, priced.layout.placement.num_chunks
    if order.shard is Policy.STEP:
        return 0.0
    if order.shard is Policy.MICROBATCH:
        return _collectives(priced, 2 * B * V - V, B)
    units = order.fewest_units(V, B)
    again = (units - 1) * max(0, V - order.max_resident)
    return _collectives(priced, again, units)


def memory_bound(priced: Priced, order: Order | None = None) -> float:
    """Bytes that a plan of the layout needs at least, on its fullest rank."""
    placement = priced.layout.placement
    first = 1 if order is None else order.largest_unit(priced.num_microbatches)
    resident_all = order is not None and order.shard is Policy.STEP
    return max(
        _rank_memory(priced.sizes, placement.stages_of(rank), first, resident_all)
        for rank in range(placement.pp_size)
    )


def _rank_memory(sizes: Bytes, stages: tuple[int, ...], first: int, resident_all: bool) -> float:
    held = first * sum(at_stage(sizes.until_backward, stage) for stage in stages[:-1])
    held += at_stage(sizes.until_backward, stages[-1])
    return held + _always(sizes, stages, resident_all)


def _always(sizes: Bytes, stages: tuple[int, ...], resident_all: bool) -> float:
    """States, workspace and the parameters of the smallest stage, or of all."""

    def every(size: PerStage) -> list[float]:
        return [at_stage(size, stage) for stage in stages]

    gathered = every(sizes.gathered)
    held = sum(every(sizes.parameters)) + sum(every(sizes.optimizer)) + max(every(sizes.workspace))
    return held + (sum(gathered) if resident_all else min(gathered))


def _collectives(priced: Priced, more_gathers: int, reduces: int) -> float:
    """A rank's gathers, each stage once and `more_gathers` of any, and its reductions."""
    gathers, placement = _each(priced.traffic.gather, priced), priced.layout.placement
    reductions = _each(priced.traffic.reduce, priced)
    return max(
        sum(gathers[s] + reduces * reductions[s] for s in stages)
        + more_gathers * min(gathers[s] for s in stages)
        for stages in map(placement.stages_of, range(placement.pp_size))
    )


def _each(value: PerStage, priced: Priced) -> list[float]:
    return [at_stage(value, stage) for stage in range(priced.layout.placement.num_stages)]

"""Ways to train at scale: orders with their sharding, priced and simulated by the planner's means.

Every side runs with the least recomputation that fits the memory: none, selective, or full.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from itertools import accumulate, pairwise
from typing import NamedTuple

from zeropp.costs import Costs
from zeropp.generate import generate
from zeropp.ir.placement import Placement, Shape
from zeropp.ir.program import Policy, Recompute
from zeropp.ir.schedule import Schedule
from zeropp.planner import Problem
from zeropp.planner.bounds import memory_bound
from zeropp.planner.layout import Layout, Links
from zeropp.planner.order import Order
from zeropp.planner.pricing import Priced, cut, price
from zeropp.planner.profile import Setting
from zeropp.program.lowering import lower
from zeropp.simulate import simulate


class Side(NamedTuple):
    """One way to train: an order, with its sharding, and what is changed in its price."""

    name: str
    order: Order
    deep: bool = True  # V chunks per rank; otherwise one
    sharded: bool = True  # parameters and optimizer are, over the D ranks; or else replicated
    change: Callable[[Problem, Priced], Priced] | None = None


@dataclass(frozen=True)
class Outcome:
    """What one side takes: seconds, and bytes of the fullest rank."""

    name: str
    step_s: float
    peak: float
    recompute: Recompute


def by_layer(problem: Problem, priced: Priced) -> Priced:
    """ZeRO-3 at its best: layers are gathered one by one, and all that compute can hide is hidden.

    A pass takes its compute or its gathers, whichever is longer; what is left of the reductions
    keeps the link busy after it. Two layers are gathered at once, and one layer's gradient is
    reduced. Implementations expose more, so this peer is a strong one.
    """
    costs, links, precision = priced.costs, Links(problem, priced.layout), problem.profile.precision
    counts = [problem.profile.parameters[kind] for kind in problem.profile.kinds]
    layers = [counts[a:b] for a, b in pairwise(accumulate(priced.stages.split, initial=0))]
    gathers = [sum(links.gather(precision.compute * n) for n in stage) for stage in layers]
    reduces = [sum(links.reduce(precision.reduce * n) for n in stage) for stage in layers]
    both = [b + w for b, w in zip(costs.backward, costs.weight, strict=True)]
    passes = [max(time, gather) for time, gather in zip(both, gathers, strict=True)]
    left = [max(0.0, g + r - p) for g, r, p in zip(gathers, reduces, passes, strict=True)]
    heaviest = [max(stage) for stage in layers]
    workspaces = zip(costs.workspace, heaviest, strict=True)
    free = (0.0,) * costs.num_stages
    changed = replace(
        costs,
        forward=tuple(map(max, costs.forward, gathers)),
        backward=tuple(time - w for time, w in zip(passes, costs.weight, strict=True)),
        gather=free,
        reduce=tuple(left),
        gathered=tuple(2 * precision.compute * count for count in heaviest),
        gradients=tuple(precision.reduce * count for count in heaviest),
        gather_staging=free,  # beside the pass, hence in its workspace
        reduce_staging=tuple(precision.reduce * count for count in heaviest),
        workspace=tuple(most + precision.compute * n for most, n in workspaces),
    )
    return replace(priced, costs=changed)


def without_buffers(problem: Problem, priced: Priced) -> Priced:
    """Nothing is sharded, so that nothing is gathered into or reduced from a flat buffer."""
    none = (0.0,) * priced.costs.num_stages
    costs = replace(priced.costs, gather_staging=none, reduce_staging=none)
    return replace(priced, costs=costs)


_ZERO_3 = Order("1f1b", shard=Policy.MICROBATCH, max_resident=1)
_ONCE = Order("1f1b", shard=Policy.STEP, max_resident=1)
PEERS = (
    Side("1F1B + ZeRO-3 by layer", _ZERO_3, deep=False, change=by_layer),
    Side("1F1B + ZeRO-3 by stage", _ZERO_3, deep=False),
    Side("1F1B, step", _ONCE, deep=False),
    Side("1F1B, unsharded", _ONCE, deep=False, sharded=False, change=without_buffers),
    Side("interleaved 1F1B, unit", Order("interleaved-1f1b")),
    Side("interleaved 1F1B, step", Order("interleaved-1f1b", shard=Policy.STEP)),
    Side("breadth-first, unit", Order("breadth-first")),
    Side("breadth-first, step", Order("breadth-first", shard=Policy.STEP)),
)


def own_sides(pp_size: int, batch: int) -> list[Side]:
    """ZeroPP in units of P, 2P-1 and B, gathered per unit; and per step in units of P."""
    sides = []
    for seam in ("drain", "carry"):
        for U in sorted({min(size, batch) for size in (pp_size, 2 * pp_size - 1, batch)}):
            for resident in (1, 2):
                order = Order("zeropp", U, seam, max_resident=resident)
                sides.append(Side(f"{seam} U={U}, {resident} resident", order))
        order = Order("zeropp", min(pp_size, batch), seam, shard=Policy.STEP)
        sides.append(Side(f"{seam} U={order.unit_size}, step", order))
    return sides


def run_all(problem: Problem, P: int, D: int, V: int, sides: Sequence[Side]) -> list[Outcome]:
    """Every side that fits a mesh of P x D, with the least recomputation with which it does."""
    size = next(iter(problem.profile.blocks)).micro_batch_size

    @cache
    def priced(chunks: int, shards: int, recompute: Recompute) -> Priced:
        setting = Setting(size, recompute)
        layout = Layout(Placement(Shape.LOOP, P, chunks), shards, D // shards, setting)
        return price(problem, layout, cut(problem, layout))

    def run(side: Side) -> Outcome | None:
        for recompute in Recompute:
            made = priced(V if side.deep else 1, D if side.sharded else 1, recompute)
            if side.change is not None:
                made = side.change(problem, made)
            elif memory_bound(made, side.order) > problem.usable:
                continue
            chunks, made_for = made.layout.placement.num_chunks, made.made_for(side.order)
            schedule = _schedule(side.order, P, chunks, made.num_microbatches, made_for)
            program = lower(
                schedule,
                side.order.shard,
                max_resident=side.order.max_resident,
                expected=made.costs.expected(schedule),
            )
            ran = simulate(program, made.costs)
            peak = max(memory.peak for memory in ran.memory)
            if peak <= problem.usable:
                return Outcome(side.name, ran.makespan, peak, recompute)
        return None

    return [outcome for outcome in map(run, sides) if outcome is not None]


@lru_cache(maxsize=64)
def _schedule(order: Order, P: int, V: int, batch: int, costs: Costs | None) -> Schedule:
    """Made once for all costs, where the order is not made for some."""
    return generate(order, P, V, batch, costs=costs)

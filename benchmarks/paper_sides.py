"""The sides of `paper.py`: orders with their sharding, priced and simulated by the planner's means.

Every side runs with the least recomputation that fits the memory: none, selective, or full.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import NamedTuple

from zeropp.generate import generate
from zeropp.ir.placement import Placement, Shape
from zeropp.ir.program import Program, Recompute
from zeropp.ir.schedule import Schedule
from zeropp.planner import Problem
from zeropp.planner.bounds import memory_bound
from zeropp.planner.layout import Layout, Links
from zeropp.planner.made import schedule_of
from zeropp.planner.order import Order
from zeropp.planner.predict import PREFETCH
from zeropp.planner.pricing import Priced, cut, price
from zeropp.planner.profile import Profile, Setting
from zeropp.program.collectives import Policy
from zeropp.program.lowering import lower
from zeropp.simulate import simulate

Change = Callable[[Problem, Priced], Priced]


class Side(NamedTuple):
    """One way to train: an order, when parameters are gathered, and what is changed in its price.

    Attributes:
        name: in the report.
        order: schedule and sharding.
        deep: whether it runs V chunks per rank; otherwise one.
        sharded: whether parameters and optimizer are sharded over the D ranks, or replicated.
        change: applied to the priced layout.
    """

    name: str
    order: Order
    deep: bool = True
    sharded: bool = True
    change: Change | None = None


@dataclass(frozen=True)
class Outcome:
    """What one side takes."""

    name: str
    step_s: float
    peak: float
    recompute: Recompute


def by_layer(problem: Problem, priced: Priced) -> Priced:
    """ZeRO-3 at its best: layers are gathered one by one, and all that compute can hide is hidden.

    A pass takes its compute or its gathers, whichever is longer; what is left of the reductions
    keeps the link busy after it. Two layers are gathered at once, one of them with its flat buffer,
    and one layer's gradient is reduced. Implementations expose more, so this peer is a strong one.
    """
    costs, links, precision = priced.costs, Links(problem, priced.layout), problem.profile.precision
    layers = _layers(problem, priced)
    gathers = [sum(links.gather(precision.compute * n) for n in stage) for stage in layers]
    reduces = [sum(links.reduce(precision.reduce * n) for n in stage) for stage in layers]
    both = [b + w for b, w in zip(costs.backward, costs.weight, strict=True)]
    passes = [max(time, gather) for time, gather in zip(both, gathers, strict=True)]
    left = [max(0.0, g + r - p) for g, r, p in zip(gathers, reduces, passes, strict=True)]
    heaviest = [max(stage) for stage in layers]
    changed = replace(
        costs,
        forward=tuple(map(max, costs.forward, gathers)),
        backward=tuple(time - w for time, w in zip(passes, costs.weight, strict=True)),
        gather=0.0,
        reduce=tuple(left),
        gathered=tuple(2 * precision.compute * count for count in heaviest),
        gradients=tuple(precision.reduce * count for count in heaviest),
        gather_staging=0.0,  # beside the pass, hence in its workspace
        reduce_staging=tuple(precision.reduce * count for count in heaviest),
        workspace=tuple(
            workspace + precision.compute * count
            for workspace, count in zip(costs.workspace, heaviest, strict=True)
        ),
    )
    return replace(priced, costs=changed)


def _layers(problem: Problem, priced: Priced) -> list[list[int]]:
    """For each stage, how many parameters each of its layers has."""
    counts = [problem.profile.parameters[kind] for kind in problem.profile.kinds]
    return [counts[a:b] for a, b in pairwise(accumulate(priced.stages.split, initial=0))]


def without_buffers(problem: Problem, priced: Priced) -> Priced:
    """Nothing is sharded, so that nothing is gathered into or reduced from a flat buffer."""
    return replace(priced, costs=replace(priced.costs, gather_staging=0.0, reduce_staging=0.0))


PEERS = (
    Side(
        "1F1B, ZeRO-3 by layer",
        Order("1f1b", Policy.MICROBATCH, 1),
        deep=False,
        change=by_layer,
    ),
    Side("1F1B, ZeRO-3 by stage", Order("1f1b", Policy.MICROBATCH, 1), deep=False),
    Side("1F1B, step", Order("1f1b", Policy.STEP, 1), deep=False),
    Side(
        "1F1B, unsharded",
        Order("1f1b", Policy.STEP, 1),
        deep=False,
        sharded=False,
        change=without_buffers,
    ),
    Side("interleaved 1F1B, unit", Order("interleaved-1f1b")),
    Side("interleaved 1F1B, step", Order("interleaved-1f1b", Policy.STEP)),
    Side("breadth-first, unit", Order("breadth-first")),
    Side("breadth-first, step", Order("breadth-first", Policy.STEP)),
)


def own_sides(pp_size: int, batch: int) -> list[Side]:
    """ZeroPP in units of P, 2P-1 and B, gathered per unit; and per step in units of P."""
    sides = []
    sizes = sorted({min(size, batch) for size in (pp_size, 2 * pp_size - 1, batch)})
    for seam in ("drain", "carry"):
        for U in sizes:
            for resident in (1, 2):
                order = Order("zeropp", Policy.UNIT, resident, U, seam)
                sides.append(Side(f"{seam} U={U}, {resident} resident", order))
        order = Order("zeropp", Policy.STEP, 2, min(pp_size, batch), seam)
        sides.append(Side(f"{seam} U={order.unit_size}, step", order))
    return sides


@dataclass(frozen=True, eq=False)  # compared and cached by identity: profiles do not hash
class Cluster:
    """A profiled model on devices, in a mesh of P x D."""

    profile: Profile
    gpus_per_node: int
    pp_size: int
    dp_size: int
    micro_batch_size: int

    def problem(self, batch: int) -> Problem:
        """With B = `batch` micro-batches per pipeline."""
        sequences = self.dp_size * batch * self.micro_batch_size
        return Problem(self.profile, self.pp_size * self.dp_size, self.gpus_per_node, sequences)


@lru_cache(maxsize=64)
def _priced(
    cluster: Cluster, chunks: int, batch: int, sharded: bool, recompute: Recompute
) -> Priced:
    problem = cluster.problem(batch)
    shards, copies = (cluster.dp_size, 1) if sharded else (1, cluster.dp_size)
    placement = Placement(Shape.LOOP, cluster.pp_size, chunks)
    setting = Setting(cluster.micro_batch_size, recompute)
    layout = Layout(placement, shards, copies, setting)
    return price(problem, layout, cut(problem, layout))


@lru_cache(maxsize=64)
def _same_for_all_costs(order: Order, P: int, V: int, batch: int) -> Program:
    schedule = generate(order.schedule, P, V, batch, unit_size=order.unit_size, seam=order.seam)
    return _lowered(schedule, order)


def _lowered(schedule: Schedule, order: Order) -> Program:
    return lower(schedule, order.shard, max_resident=order.max_resident, prefetch=PREFETCH)


def run(cluster: Cluster, chunks: int, batch: int, side: Side) -> Outcome | None:
    """With the least recomputation that fits; None if nothing does."""
    problem = cluster.problem(batch)
    for recompute in Recompute:
        priced = _priced(cluster, chunks if side.deep else 1, batch, side.sharded, recompute)
        if side.change is not None:
            priced = side.change(problem, priced)
        elif memory_bound(priced, side.order) > problem.usable:
            continue
        step_s, peak = _simulated(priced, side)
        if peak <= problem.usable:
            return Outcome(side.name, step_s, peak, recompute)
    return None


def _simulated(priced: Priced, side: Side) -> tuple[float, float]:
    placement, batch, order = priced.layout.placement, priced.num_microbatches, side.order
    if order.seam == "carry":
        program = _lowered(schedule_of(priced, order, batch), order)
    else:
        sizes = placement.pp_size, placement.num_chunks, batch
        program = _same_for_all_costs(order, *sizes)
    made = simulate(program, priced.costs)
    return made.makespan, max(memory.peak for memory in made.memory)


def run_all(
    cluster: Cluster, chunks: int, batch: int, sides: Sequence[Side]
) -> list[Outcome | None]:
    """Each side; None where nothing fits."""
    return [run(cluster, chunks, batch, side) for side in sides]

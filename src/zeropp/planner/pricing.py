"""What every stage of a layout costs, from the profile of the blocks."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise
from math import log2
from operator import itemgetter
from typing import Any

from zeropp.costs import Costs, floor
from zeropp.generate import Request
from zeropp.planner.balance import balance
from zeropp.planner.layout import Layout, Links
from zeropp.planner.order import Order
from zeropp.planner.problem import Problem


@dataclass(frozen=True)
class Stages:
    """A model cut into stages."""

    split: tuple[int, ...]  # blocks in each stage
    parameters: tuple[int, ...]  # how many each stage has
    trained: tuple[int, ...]  # how many of them are not frozen
    costs: Costs  # of the blocks, without links and states
    exact: bool = True  # no split has a faster slowest rank


def cut(problem: Problem, layout: Layout) -> Stages:
    """The stages of a layout: those of the problem's split, which fits it, or balanced ones."""
    profile, split, exact = problem.profile, problem.split, True
    blocks = profile.block_list(layout.setting)
    if split is None:
        times = [block.forward + block.backward + block.weight for block in blocks]
        split, _, exact = balance(times, layout.placement)
    stages = [slice(a, b) for a, b in pairwise(accumulate(split, initial=0))]

    def joined(join: Callable[[list[float]], float], *names: str) -> dict[str, Any]:
        listed = {name: [getattr(block, name) for block in blocks] for name in names}
        return {name: tuple(join(values[s]) for s in stages) for name, values in listed.items()}

    costs = Costs(
        **joined(sum, "forward", "backward", "weight", "until_backward", "until_weight"),
        **joined(itemgetter(-1), "message"),
        **joined(max, "workspace"),
    )
    counts = [profile.parameters[kind] for kind in profile.kinds]
    trained = [profile.num_trained(kind) for kind in profile.kinds]
    all_of, trained_of = (tuple(sum(each[s]) for s in stages) for each in (counts, trained))
    return Stages(split, all_of, trained_of, costs, exact)


@dataclass(frozen=True)
class Priced:
    """A layout with everything that the simulator asks for."""

    layout: Layout
    num_microbatches: int
    stages: Stages
    costs: Costs  # of each stage; the latency is that of the slowest hop

    @cached_property
    def by_rank(self) -> tuple[tuple[int, ...], ...]:
        """For each rank, its stages."""
        placement = self.layout.placement
        return tuple(map(placement.stages_of, range(placement.pp_size)))

    def request(self, order: Order) -> Request:
        """What the generator of `order` is asked for."""
        placement = self.layout.placement
        sizes = (placement.pp_size, placement.num_chunks, self.num_microbatches)
        knobs = (order.unit_size, order.seam, order.slots)
        return Request(*sizes, *knobs, max_resident=order.gathered)

    def made_for(self, order: Order) -> Costs | None:
        """What an order is made for; None for the schedules that do not go by times.

        Gathers and reductions are rounded, as layouts that hardly differ then share their orders.
        """
        request = self.request(order)
        if not order.generator.by_times(request):
            return None
        stay = order.gathered is None or order.gathered >= request.num_chunks
        if stay or not order.generator.by_gathers(request):
            return self._slowest_hop
        gather, reduce = (
            tuple(map(_rounded, times)) for times in (self.costs.gather, self.costs.reduce)
        )
        return replace(self._slowest_hop, gather=gather, reduce=reduce)

    @cached_property
    def _slowest_hop(self) -> Costs:
        return self._with_hop(max)

    @cached_property
    def fastest_hop(self) -> Costs:
        """The costs for bounds: a hop includes the fastest transfer."""
        return self._with_hop(min)

    @cached_property
    def compute_floor(self) -> float:
        """The makespan that no order beats, without collectives."""
        return floor(self.layout.placement, self.num_microbatches, self.fastest_hop)

    @cached_property
    def fused_floor(self) -> float:
        """The same for orders that run B and W as one."""
        costs = self.fastest_hop
        backward = tuple(b + w for b, w in zip(costs.backward, costs.weight, strict=True))
        fused = Costs(costs.forward, backward, (0.0,) * costs.num_stages, costs.latency)
        return floor(self.layout.placement, self.num_microbatches, fused)

    def _with_hop(self, choose: Callable[[list[float]], float]) -> Costs:
        """The compute alone, with a latency that includes the chosen hop's transfer."""
        costs, hops = self.costs, self.layout.placement.hops
        transfers = [time for time, hop in zip(costs.transfer, hops, strict=True) if hop]
        latency = costs.latency + choose(transfers or [0.0])
        return Costs(costs.forward, costs.backward, costs.weight, latency)


def price(problem: Problem, layout: Layout, stages: Stages) -> Priced:
    """What every stage costs, with its messages, collectives and states."""
    links, precision = Links(problem, layout), problem.profile.precision
    counts, trained = stages.parameters, stages.trained
    gathers = {count: links.gather(precision.compute * count) for count in {*counts}}
    reduces = {count: links.reduce(precision.reduce * count) for count in {*trained} - {0}}
    hops = [links.hop(stage, size) for stage, size in enumerate(stages.costs.message)]
    kept = [sum(trained[s] for s in layout.placement.stages_of(p)) for p in range(layout.pp_size)]
    costs = replace(
        stages.costs,
        latency=max(hop.latency for hop in hops),
        host=max(hop.host for hop in hops),
        optimizer=problem.profile.optimizer * max(kept) / layout.dp_shard,
        gather=tuple(gathers[count] for count in counts),
        reduce=tuple(reduces.get(count, 0.0) for count in trained),
        transfer=tuple(hop.transfer for hop in hops),
        **_states(problem, layout, stages),
    )
    batch = problem.global_batch // (layout.dp_size * layout.setting.micro_batch_size)
    return Priced(layout, batch, stages, costs)


def _rounded(seconds: float) -> float:
    """Within 9 %, to a quarter of a power of two."""
    return 2.0 ** (round(4 * log2(seconds)) / 4) if seconds else 0.0


def _states(problem: Problem, layout: Layout, stages: Stages) -> dict[str, tuple[float, ...]]:
    """Bytes of parameters, gradients and optimizer; flat buffers are as large as what they carry.
    What is frozen is kept and gathered, and no more.

    One data rank that computes in the parameters' own precision gathers and reduces nothing: its
    sums become the gradients.
    """
    precision, shards = problem.profile.precision, layout.dp_shard
    if layout.dp_size == 1 and precision.compute == precision.parameter:
        precision = replace(precision, compute=0.0, gradient=0.0)
    of_all = {
        "parameters": precision.parameter / shards,
        "gathered": precision.compute,
        "gather_staging": precision.compute,
    }
    of_trained = {
        "gradients": precision.reduce,
        "optimizer_state": (precision.gradient + precision.optimizer) / shards,
        "reduce_staging": precision.reduce if precision.compute else 0.0,
    }
    return {
        name: tuple(size * n for n in counts)
        for counts, named in ((stages.parameters, of_all), (stages.trained, of_trained))
        for name, size in named.items()
    }

"""What a layout costs per stage: times, traffic and bytes, from the profile of the blocks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, pairwise

from zeropp.costs import Bytes, Costs, Traffic, at_stage, floor
from zeropp.planner.balance import balance
from zeropp.planner.layout import Hop, Layout, Links
from zeropp.planner.problem import Problem
from zeropp.planner.profile import Block


@dataclass(frozen=True)
class Stages:
    """A model cut into stages: sums over the blocks of each.

    Attributes:
        split: blocks in each stage.
        parameters: how many each stage has.
        blocks: each stage as one block.
        exact: whether no split has a faster slowest rank.
    """

    split: tuple[int, ...]
    parameters: tuple[int, ...]
    blocks: tuple[Block, ...]
    exact: bool = True


def cut(problem: Problem, layout: Layout) -> Stages:
    """The stages of a layout: those of the problem's split, which fits it, or balanced ones.

    Raises:
        ValueError: fewer blocks than stages.
    """
    profile, split, exact = problem.profile, problem.split, True
    blocks = profile.block_list(layout.setting)
    if split is None:
        times = [block.forward + block.backward + block.weight for block in blocks]
        split, _, exact = balance(times, layout.placement)
    counts = [profile.parameters[kind] for kind in profile.kinds]
    ranges = [range(a, b) for a, b in pairwise(accumulate(split, initial=0))]
    return Stages(
        split,
        tuple(sum(counts[i] for i in stage) for stage in ranges),
        tuple(_joined([blocks[i] for i in stage]) for stage in ranges),
        exact,
    )


def _joined(blocks: Sequence[Block]) -> Block:
    def total(name: str) -> float:
        return sum(float(getattr(block, name)) for block in blocks)

    return Block(
        total("forward"),
        total("backward"),
        total("weight"),
        total("until_backward"),
        total("until_weight"),
        blocks[-1].message,
        max(block.workspace for block in blocks),
        total("flops"),
    )


@dataclass(frozen=True)
class Priced:
    """A layout with everything that the simulator asks for.

    Attributes:
        layout: the mesh, placement and setting.
        num_microbatches: B.
        stages: the model's cut.
        costs: compute times, and the latency of the slowest hop.
        traffic: collectives and transfers.
        sizes: bytes.
    """

    layout: Layout
    num_microbatches: int
    stages: Stages
    costs: Costs
    traffic: Traffic
    sizes: Bytes

    @cached_property
    def made_for(self) -> Costs:
        """The costs that schedules are made for: a hop includes the slowest transfer."""
        return self._with_hop(max(self._transfers, default=0.0))

    @cached_property
    def fastest_hop(self) -> Costs:
        """The costs for bounds: a hop includes the fastest transfer."""
        return self._with_hop(min(self._transfers, default=0.0))

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

    @property
    def _transfers(self) -> list[float]:
        hops = self.layout.placement.hops
        return [at_stage(self.traffic.transfer, s) for s, hop in enumerate(hops) if hop]

    def _with_hop(self, transfer: float) -> Costs:
        compute = (self.costs.forward, self.costs.backward, self.costs.weight)
        return Costs(*compute, self.costs.latency + transfer)


def price(problem: Problem, layout: Layout, stages: Stages) -> Priced:
    """Costs, traffic and bytes of every stage."""
    links, blocks = Links(problem, layout), stages.blocks
    hops = [links.hop(stage, block.message) for stage, block in enumerate(blocks)]
    costs = Costs(
        tuple(block.forward for block in blocks),
        tuple(block.backward for block in blocks),
        tuple(block.weight for block in blocks),
        max(hop.latency for hop in hops),
    )
    B = layout.num_microbatches(problem)
    traffic = _traffic(problem, layout, stages, hops)
    return Priced(layout, B, stages, costs, traffic, _sizes(problem, layout, stages))


def _traffic(problem: Problem, layout: Layout, stages: Stages, hops: Sequence[Hop]) -> Traffic:
    precision, links = problem.profile.precision, Links(problem, layout)
    counts, placement = stages.parameters, layout.placement
    heaviest = max(
        sum(counts[stage] for stage in placement.stages_of(rank)) for rank in range(layout.pp_size)
    )
    return Traffic(
        gather=tuple(links.gather(precision.compute * count) for count in counts),
        reduce=tuple(links.reduce(precision.reduce * count) for count in counts),
        transfer=tuple(hop.transfer for hop in hops),
        optimizer=problem.profile.optimizer * heaviest / layout.dp_shard,
        host=max(hop.host for hop in hops),
    )


def _sizes(problem: Problem, layout: Layout, stages: Stages) -> Bytes:
    """Flat buffers of collectives are as large as what they carry.

    One data rank that computes in the parameters' own precision gathers and reduces nothing: its
    sums become the gradients.
    """
    precision, blocks, shards = problem.profile.precision, stages.blocks, layout.dp_shard
    if layout.dp_size == 1 and precision.compute == precision.parameter:
        precision = replace(precision, compute=0.0, gradient=0.0)
    collected = 0.0 if precision.compute == 0.0 else precision.reduce

    def bytes_of(per_parameter: float) -> tuple[float, ...]:
        return tuple(per_parameter * count for count in stages.parameters)

    return Bytes(
        parameters=bytes_of(precision.parameter / shards),
        gathered=bytes_of(precision.compute),
        gradients=bytes_of(precision.reduce),
        optimizer=bytes_of((precision.gradient + precision.optimizer) / shards),
        until_backward=tuple(block.until_backward for block in blocks),
        until_weight=tuple(block.until_weight for block in blocks),
        message=tuple(block.message for block in blocks),
        gather_staging=bytes_of(precision.compute),
        reduce_staging=bytes_of(collected),
        workspace=tuple(block.workspace for block in blocks),
    )

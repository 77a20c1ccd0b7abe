"""A layout says how many ranks do what, and which links they use for it.

Ranks are numbered with P outside and shards inside, as in the mesh (pp, dp_replicate, dp_shard), so
that a shard group fills nodes before it spans them:

    8 GPUs per node, P=2, dp_replicate=1, dp_shard=8        node 0: rank 0 of the pipeline, sharded
                                                            node 1: rank 1
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from zeropp.ir.placement import Placement
from zeropp.planner.link import Group, Link
from zeropp.planner.problem import Problem
from zeropp.planner.profile import Setting

_Line = tuple[Link, Group]


@dataclass(frozen=True)
class Layout:
    """Stages on the ranks of a pipeline, ranks that shard and copies of them; the micro-batch."""

    placement: Placement
    dp_shard: int
    dp_replicate: int
    setting: Setting

    @property
    def pp_size(self) -> int:
        """P."""
        return self.placement.pp_size

    @property
    def dp_size(self) -> int:
        """D, ranks that hold the same stages and see different data."""
        return self.dp_shard * self.dp_replicate


class Hop(NamedTuple):
    """Seconds of a message from one stage to the next; see `Link`."""

    latency: float
    transfer: float
    host: float


class Links:
    """The links that a layout's ranks use on a problem's cluster."""

    def __init__(self, problem: Problem, layout: Layout) -> None:
        self._problem, self._layout = problem, layout
        self._shards = self._lines(layout.dp_shard, stride=1)
        self._copies = self._lines(layout.dp_replicate, stride=layout.dp_shard)

    def gather(self, size: float) -> float:
        """Seconds to gather `size` bytes over the shard group."""
        return _slowest(Link.all_gather, self._shards, size)

    def reduce(self, size: float) -> float:
        """Seconds to reduce-scatter `size` bytes over the shard group, and its shards over copies.

        An all-reduce of the shards is a reduce-scatter and an all-gather.
        """
        shard = size / self._layout.dp_shard
        return (
            _slowest(Link.reduce_scatter, self._shards, size)
            + _slowest(Link.reduce_scatter, self._copies, shard)
            + _slowest(Link.all_gather, self._copies, shard)
        )

    def hop(self, stage: int, size: float) -> Hop:
        """From `stage` to the next one; nothing on one rank."""
        placement, node = self._layout.placement, self._problem.gpus_per_node
        if not placement.hops[stage]:
            return Hop(0.0, 0.0, 0.0)
        D = self._layout.dp_size
        here, there = placement.rank_of(stage) * D, placement.rank_of(stage + 1) * D
        crosses = any((here + d) // node != (there + d) // node for d in range(D))
        link = self._link(crosses)
        return Hop(link.latency, link.transfer(size), link.host)

    def _lines(self, ranks: int, stride: int) -> list[_Line]:
        """The links that a group of every `stride`-th rank waits for, all at once."""
        node, span = self._problem.gpus_per_node, ranks * stride
        if ranks == 1:
            return []
        if self._problem.nodes == 1 or node % span == 0:
            return [(self._link(False), Group(ranks))]
        together = math.gcd(span, node) // stride if node % stride == 0 else 1
        lines = [(self._link(True), Group(ranks, max(1, together)))]
        return [*lines, (self._link(False), Group(ranks))] if together > 1 else lines

    def _link(self, crosses: bool) -> Link:
        profile = self._problem.profile
        link = profile.between if crosses else profile.inside
        assert link is not None, "Problem refuses clusters whose links are not profiled"
        return link


def _slowest(
    collective: Callable[[Link, float, Group], float], lines: list[_Line], size: float
) -> float:
    return max((collective(link, size, group) for link, group in lines), default=0.0)

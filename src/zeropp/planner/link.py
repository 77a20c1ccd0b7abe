"""A link between ranks: how long a message, an all-gather and a reduce-scatter take on it.

Collectives are tables of (bytes, seconds) for one group, and follow from there for others. Every
rank of a ring of D sends (D-1)/D of the bytes, and m ranks of one node in one group share what
leaves the node, so that the same table is read at

    bytes x  (D-1)/D / m  /  ((ranks-1)/ranks / per_node)

Each further rank of a ring adds one latency.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

Points = tuple[tuple[float, float], ...]  # (bytes, seconds), larger sizes last


class Group(NamedTuple):
    """Who takes part in a collective: how many ranks, and how many of them share a node's link."""

    ranks: int
    per_node: int = 1


@dataclass(frozen=True)
class Link:
    """One kind of link, as every rank of a node sees it while all of them use it.

    Raises:
        ValueError: a number out of range, or a table that is empty or not sorted by bytes.
    """

    latency: float  # seconds until the first byte of a message is there
    bandwidth: float  # bytes per second from one rank to another
    gather: Points  # all-gathers, by bytes of the whole result
    reduce: Points  # reduce-scatters, by bytes of the whole input in the reduction's dtype
    ranks: int = 2  # of the group on which the two tables were measured
    per_node: int = 1  # how many of those shared a node's link; 1 for a link inside a node
    host: float = 0.0  # seconds that a rank computes nothing as it sends or posts a receive

    def __post_init__(self) -> None:
        for name in ("latency", "host"):
            if not math.isfinite(seconds := getattr(self, name)) or seconds < 0:
                raise ValueError(f"{name} must be 0 or more seconds, got {seconds}")
        if not math.isfinite(self.bandwidth) or self.bandwidth <= 0:
            raise ValueError(f"bandwidth must be above 0 bytes per second, got {self.bandwidth}")
        if self.ranks < 2:
            raise ValueError(f"ranks must be at least 2 (of a measured group), got {self.ranks}")
        if self.per_node < 1:
            raise ValueError(f"per_node must be at least 1, got {self.per_node}")
        for name in ("gather", "reduce"):
            _refuse_bad_table(name, getattr(self, name))

    def transfer(self, size: float) -> float:
        """Seconds that a message of `size` bytes keeps a channel busy, without the latency."""
        return size / self.bandwidth

    def all_gather(self, size: float, group: Group) -> float:
        """Seconds to gather `size` bytes on every rank of `group`."""
        return self._collective(self.gather, size, group)

    def reduce_scatter(self, size: float, group: Group) -> float:
        """Seconds to reduce `size` bytes of every rank of `group`, leaving each its shard."""
        return self._collective(self.reduce, size, group)

    def _collective(self, table: Points, size: float, group: Group) -> float:
        if group.ranks == 1:
            return 0.0
        sent = size * (1 - 1 / group.ranks) / group.per_node
        measured = (1 - 1 / self.ranks) / self.per_node
        return _read(table, sent / measured) + max(0, group.ranks - self.ranks) * self.latency


def steady(latency: float, bandwidth: float) -> Link:
    """A link of one latency and one rate at every size, for collectives as for messages."""
    size = 1e9
    table = ((0.0, latency), (size, latency + size / 2 / bandwidth))
    return Link(latency, bandwidth, table, table)


def _read(table: Points, size: float) -> float:
    """Between two sizes on the line through them; above the largest at its rate."""
    index = bisect_left(table, size, key=lambda point: point[0])
    if index == 0:
        return table[0][1]
    if index == len(table):
        largest, seconds = table[-1]
        return seconds * size / largest
    (left, low), (right, high) = table[index - 1 : index + 1]
    return low + (high - low) * (size - left) / (right - left)


def _refuse_bad_table(name: str, table: Points) -> None:
    numbers = [number for point in table for number in point]
    if not table or table[-1][0] <= 0 or any(not math.isfinite(n) or n < 0 for n in numbers):
        raise ValueError(f"{name} must list pairs of bytes and seconds, 0 or more; got {table}")
    if any(a[0] >= b[0] for a, b in pairwise(table)):
        raise ValueError(f"{name} must list each size once, the smallest first; got {table}")

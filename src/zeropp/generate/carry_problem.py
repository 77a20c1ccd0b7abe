"""What a carried order has to arrange: durations in whole ticks, and the F and B orders as indices.

On every rank the forwards are numbered in the order in which they run, unit by unit and chunk by
chunk upwards, and the backwards likewise downwards. Both orders are the same on all ranks, so one
number names an action on each of them. V=2, units of 2 and 1 micro-batches:

    index              0  1  2  3  4  5
    F: chunk           0  0  1  1  0  1
       micro-batch     0  1  0  1  2  2
    B: chunk           1  1  0  0  1  0
       micro-batch     0  1  0  1  2  2

F number i of rank p enables number i of rank p+1; on the last rank it enables number i+U of rank 0,
where U is the size of its unit, or, in the last chunk, the B of the same micro-batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from zeropp.costs import Costs, floor
from zeropp.ir.placement import Placement

_TICKS = 1_000_000  # in the first stage's F; whole numbers, so that equal times tie exactly

Durations = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Problem:
    """Durations in ticks, for a loop placement.

    Attributes:
        pp_size: P.
        num_chunks: V.
        durations: for F, B and W, for each rank, the time of each of its chunks.
        latency: of a hop between ranks.
        floor: the makespan that nothing can beat.
    """

    pp_size: int
    num_chunks: int
    durations: tuple[Durations, Durations, Durations]
    latency: int
    floor: int

    @classmethod
    def of(cls, placement: Placement, num_microbatches: int, costs: Costs) -> "Problem":
        """Round `costs` to ticks.

        Raises:
            ValueError: `costs` lists another number of stages than `placement` has.
        """
        bound = floor(placement, num_microbatches, costs)
        scale = _TICKS / costs.forward[0]

        def by_rank(times: tuple[float, ...]) -> Durations:
            ticks = [round(time * scale) for time in times]
            return tuple(tuple(ticks[p :: placement.pp_size]) for p in range(placement.pp_size))

        return cls(
            placement.pp_size,
            placement.num_chunks,
            (by_rank(costs.forward), by_rank(costs.backward), by_rank(costs.weight)),
            round(costs.latency * scale),
            round(bound * scale),
        )

    def work(self, rank: int) -> int:
        """The time that one micro-batch takes on `rank`."""
        return sum(sum(by_rank[rank]) for by_rank in self.durations)


@dataclass(frozen=True)
class Orders:
    """The F and B orders that all ranks share, as tuples over the index.

    Attributes:
        units: sizes, in order.
        microbatch: of F, B and W alike.
        chunk: of F; of B; of W, which follow B's order.
        wrap: what F of the last rank enables on rank 0, or, inverted (~), its own B of the last
            stage; what B of rank 0 enables on the last rank, or -1 in chunk 0.
    """

    units: tuple[int, ...]
    microbatch: tuple[int, ...]
    chunk: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    wrap: tuple[tuple[int, ...], tuple[int, ...]]

    @classmethod
    def of(cls, num_chunks: int, units: tuple[int, ...]) -> "Orders":
        """Number the forwards and backwards of these units."""
        up, down = range(num_chunks), range(num_chunks - 1, -1, -1)
        backward_chunk = tuple(v for size in units for v in down for _ in range(size))
        return cls(
            units,
            tuple(_microbatches(num_chunks, units)),
            (
                tuple(v for size in units for v in up for _ in range(size)),
                backward_chunk,
                backward_chunk,
            ),
            (
                tuple(_wraps(num_chunks, units, forward=True)),
                tuple(_wraps(num_chunks, units, forward=False)),
            ),
        )

    def __len__(self) -> int:
        return len(self.microbatch)


def _microbatches(num_chunks: int, units: tuple[int, ...]) -> Iterator[int]:
    first = 0
    for size in units:
        for _ in range(num_chunks):
            yield from range(first, first + size)
        first += size


def _wraps(num_chunks: int, units: tuple[int, ...], forward: bool) -> Iterator[int]:
    first = 0
    for size in units:
        end = first + num_chunks * size
        yield from range(first + size, end)
        yield from (~own if forward else -1 for own in range(first, first + size))
        first = end

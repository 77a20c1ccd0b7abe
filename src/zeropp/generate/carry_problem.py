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

from dataclasses import dataclass

from zeropp.costs import Costs, floor
from zeropp.generate.request import in_blocks
from zeropp.ir.placement import Placement

_TICKS = 1_000_000  # in the first stage's F; whole numbers, so that equal times tie exactly

Durations = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Problem:
    """Durations in ticks, for a loop placement."""

    pp_size: int  # P
    num_chunks: int  # V
    # for F, B and W, for each rank, the time of each of its chunks
    durations: tuple[Durations, Durations, Durations]
    latency: int  # of a hop between ranks
    floor: int  # the makespan that nothing can beat

    @classmethod
    def of(cls, placement: Placement, num_microbatches: int, costs: Costs) -> "Problem":
        """Round `costs` to ticks."""
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
    """The F and B orders that all ranks share, as sequences over the index."""

    units: tuple[int, ...]  # sizes, in order
    microbatch: tuple[int, ...]  # of F, B and W alike
    # of F; of B; of W, which follow B's order
    chunk: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    # what F of the last rank enables on rank 0, or, inverted (~), its own B of the last stage; what
    # B of rank 0 enables on the last rank, or -1 in chunk 0
    wrap: tuple[tuple[int, ...], tuple[int, ...]]

    @classmethod
    def of(cls, num_chunks: int, units: tuple[int, ...]) -> "Orders":
        """Number the forwards and backwards of these units."""
        microbatch, up, down = list[int](), list[int](), list[int]()
        after_f, after_b = list[int](), list[int]()
        for unit in in_blocks(units):
            first, size = num_chunks * unit.start, len(unit)
            later = range(first + size, first + num_chunks * size)
            chunks = [chunk for chunk in range(num_chunks) for _ in unit]
            microbatch += [*unit] * num_chunks
            up += chunks
            down += reversed(chunks)
            after_f += [*later, *(~own for own in range(first, first + size))]
            after_b += [*later, *[-1] * size]
        chunk = tuple(up), tuple(down), tuple(down)
        return cls(units, tuple(microbatch), chunk, (tuple(after_f), tuple(after_b)))

    def __len__(self) -> int:
        return len(self.microbatch)

"""An order is a schedule and the moments of its collectives; and which orders are worth trying.

    zeropp, carried     strict, eager; U = P/2, P, 2P, ..., B; four sizes of slots; unit (1 or 2
                        resident), step
    zeropp, drained     U = P, 2P-1, B
    1f1b, interleaved   unit, step, and microbatch (ZeRO-3 as FSDP users know it)
    breadth-first       unit, step
    zb-v, v-half, vee   two chunks on a vee, vee in three sizes of slots; unit, step

Orders that differ in their slots alone are a ladder, the fewest first: more slots hold more, so a
step of it is only worth trying where the one before fits the memory.

With P=1 there is nothing to pipeline: units of U micro-batches are plain FSDP for U=1, which
gathers every stage for every micro-batch, and gather less often for larger U.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, product

from zeropp import ir
from zeropp.generate import GENERATORS, Generator, Request
from zeropp.ir.placement import Placement, Shape
from zeropp.ir.program import Policy

_ONE_CHUNK, _CHUNKS, _VEES = ("1f1b",), ("interleaved-1f1b", "breadth-first"), ("zb-v", "v-half")
_CARRIED = ("strict", "eager")
_LARGE = 2_000  # micro-batches of all stages, from which on fewer orders are tried
_When = tuple[Policy, int]
Ladder = tuple["Order", ...]


@dataclass(frozen=True)
class Order(ir.Order):
    """An order that leaves no knob to `auto`, and when it gathers parameters and reduces."""

    unit_size: int | None = None
    slots: int | None = None
    shard: Policy = Policy.UNIT
    max_resident: int = 2

    @property
    def gathered(self) -> int | None:
        """How many stages of a rank are gathered at once, by units; None: that is not bounded."""
        return self.max_resident if self.shard is Policy.UNIT else None

    @property
    def generator(self) -> Generator:
        """What makes the schedule, and what is known of it."""
        return GENERATORS[self.schedule]


def orders(placement: Placement, batch: int) -> Iterator[Order]:
    """All that may be tried for P and V of `placement` and B = `batch`."""
    return chain.from_iterable(ladders(placement, batch))


def ladders(placement: Placement, batch: int) -> Iterator[Ladder]:
    """The same, by ladders."""
    P, V = placement.pp_size, placement.num_chunks
    if placement.shape is Shape.VEE:
        yield from (_named(name, when) for name in _VEES for when in _twice(V))
        yield from _timed_vees(P, batch)
    elif P == 1:
        yield from _drained(_doubling(1, batch), V)
    else:
        peers = _CHUNKS if V > 1 else _ONE_CHUNK
        yield from (_named(name, when) for name in peers for when in _twice(V))
        yield _named(peers[0], (Policy.MICROBATCH, 1))
        yield from _drained(sorted({min(u, batch) for u in (P, 2 * P - 1, batch)}), V)
        yield from _carried(P, V, batch)


def _named(schedule: str, when: _When) -> Ladder:
    return (Order(schedule, shard=when[0], max_resident=when[1]),)


def _drained(sizes: Iterable[int], V: int) -> Iterator[Ladder]:
    for U, (shard, resident) in product(sizes, _twice(V)):
        yield (Order("zeropp", U, "drain", shard=shard, max_resident=resident),)


def _carried(P: int, V: int, batch: int) -> Iterator[Ladder]:
    """From the least slots that run well to three times the default; fewer of a large schedule."""
    large = P * V * batch > _LARGE
    for U in _doubling(P if large else max(1, P // 2), batch, 4 if large else 2):
        lean, default = (V - 1) * U + P, (V - 1) * max(U, P) + 2 * P - 1
        wanted = (lean, default, default * 3 // 2, default * 3)[:: 2 if large else 1]
        enough = {min(slots, V * batch) for slots in wanted if min(slots, V * batch) > (V - 1) * U}
        for seam, when in product(_CARRIED, _twice(V)):
            yield _ladder(Order("zeropp", U, seam), enough, when)


def _timed_vees(P: int, batch: int) -> Iterator[Ladder]:
    """In V-Min's memory, in that of P micro-batches, and between."""
    least = GENERATORS["vee"].enough(Request(P, 2, batch))
    for when in _twice(2):
        yield _ladder(Order("vee"), {least, (least + 2 * P) // 2, 2 * P}, when)


def _ladder(order: Order, slots: Iterable[int], when: _When) -> Ladder:
    shard, resident = when
    alike = replace(order, shard=shard, max_resident=resident)
    return tuple(replace(alike, slots=number) for number in sorted(slots))


def _twice(V: int) -> tuple[_When, ...]:
    """Per unit with one and two resident stages, and per step; one chunk is always resident."""
    if V == 1:
        return ((Policy.UNIT, 1), (Policy.STEP, 1))
    return ((Policy.UNIT, 1), (Policy.UNIT, 2), (Policy.STEP, V))


def _doubling(first: int, batch: int, factor: int = 2) -> list[int]:
    """`first`, `factor` times that, and so on, then the whole batch."""
    sizes = []
    while first < batch:
        sizes.append(first)
        first *= factor
    return [*sizes, batch]

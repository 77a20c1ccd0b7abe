"""Schedules on the loop: fill and drain, or one forward, one backward, in one chunk or in several.

A rank's chunks take turns: in each, forwards run chunk by chunk upwards, backwards downwards, T
micro-batches per chunk. Rank p starts with the (V-1)T forwards that reach its last chunk, and
`ahead` more for each of the P-1-p hops behind it; then forward and backward alternate, and the
remaining backwards follow. Where B and W are split, each B is followed by the oldest W that waits,
except in the first `delay` x p of these pairs, whose W fill the end.

                      turns    backward    ahead    delay
    1F1B              V=1      fused       1
    interleaved 1F1B  T=P      fused       2
    ZB-H1             V=1      split       1        1
    ZB-H2             V=1      split       2        2
    GIS               T=P      split       1        0
    ZeroPP's unit     T=U      split       2        2        (blockwise.py)

In 1F1B rank p has P-p micro-batches in flight, so p more fit into P slots: in ZB-H1 so many W run
at its end, when 1F1B would idle. ZB-H2 starts twice as far ahead, so that every rank works without
a gap, the later ones later. Interleaved 1F1B starts 2(P-1-p) forwards ahead because a fused
backward reaches rank p late; B alone is short enough that GIS does with P-1-p. Sources, bubbles and
peaks are in docs/schedules.md.
"""

from collections import deque
from collections.abc import Iterator, Sequence

from zeropp.generate.request import Request, split_evenly
from zeropp.ir.action import Action, Kind
from zeropp.ir.placement import Placement, in_blocks
from zeropp.ir.schedule import Schedule


def fill_and_drain(name: str, request: Request) -> Schedule:
    """Every chunk runs the whole batch before the next: all forwards, then all backwards."""
    placement, batch = request.placement(), [range(request.num_microbatches)]

    def order(rank: int) -> Iterator[Action]:
        stages = placement.stages_of(rank)
        yield from _in_turns(Kind.F, stages, batch)
        yield from _in_turns(Kind.BW, stages[::-1], batch)

    return request.schedule(name, order)


def alternating(name: str, backward: Kind, ahead: int, delay: int, request: Request) -> Schedule:
    """One forward, one backward, by the table above; `backward` is B (split) or BW (fused)."""
    placement, turns = request.placement(), in_blocks(_turn_sizes(request))
    return request.schedule(
        name, lambda rank: alternate(placement, rank, turns, backward, ahead, delay)
    )


def first_turn(request: Request) -> int:
    """The micro-batches of the first turn, which no other exceeds."""
    return _turn_sizes(request)[0]


def held(request: Request, ahead: int) -> int:
    """The slots that the first rank fills before its first backward, and never exceeds."""
    return (request.num_chunks - 1) * first_turn(request) + ahead * (request.pp_size - 1) + 1


def alternate(
    placement: Placement, rank: int, turns: Sequence[range], backward: Kind, ahead: int, delay: int
) -> Iterator[Action]:
    """What `rank` runs of these turns."""
    stages = placement.stages_of(rank)
    forwards = deque(_in_turns(Kind.F, stages, turns))
    in_earlier_chunks = (placement.num_chunks - 1) * len(turns[0])
    start = in_earlier_chunks + ahead * (placement.pp_size - 1 - rank)
    waiting: deque[Action] = deque()
    for _ in range(min(start, len(forwards))):
        yield forwards.popleft()
    for count, action in enumerate(_in_turns(backward, stages[::-1], turns)):
        delayed = bool(forwards) and count < delay * rank
        if forwards:
            yield forwards.popleft()
        yield action
        if backward is Kind.B:
            waiting.append(action._replace(kind=Kind.W))
        if waiting and not delayed:
            yield waiting.popleft()
    yield from waiting


def _turn_sizes(request: Request) -> tuple[int, ...]:
    """The micro-batches of each turn: P, where P divides B.

    Elsewhere the turns are of nearly equal size and none is below P (B < P: one turn of B), since
    a turn below P would leave ranks waiting for the next chunk.
    """
    total = request.num_microbatches
    return split_evenly(total, max(1, total // request.pp_size))


def _in_turns(kind: Kind, stages: tuple[int, ...], turns: Sequence[range]) -> Iterator[Action]:
    """In each turn, every stage runs that turn's micro-batches."""
    return (Action(kind, stage, m) for turn in turns for stage in stages for m in turn)

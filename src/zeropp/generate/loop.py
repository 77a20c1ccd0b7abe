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
"""

from collections import deque
from collections.abc import Iterator, Sequence

from zeropp.generate.request import Request, in_blocks, split_evenly
from zeropp.ir.action import Action, Kind
from zeropp.ir.placement import Placement
from zeropp.ir.schedule import Schedule


def gpipe(request: Request) -> Schedule:
    """All forwards, then all backwards (Huang et al. 2019, arXiv 1811.06965, figure 2c)."""
    return _fill_and_drain("gpipe", request)


def breadth_first(request: Request) -> Schedule:
    """Every chunk runs the whole batch before the next (arXiv 2211.05953, figure 4)."""
    return _fill_and_drain("breadth-first", request)


def one_forward_one_backward(request: Request) -> Schedule:
    """1F1B (PipeDream-Flush, arXiv 2006.09503, figure 2); rank p holds up to P-p micro-batches."""
    return _alternating("1f1b", request, Kind.BW, ahead=1)


def interleaved_1f1b(request: Request) -> Schedule:
    """1F1B in turns of P micro-batches (Megatron-LM, arXiv 2104.04473, section 2.2)."""
    return _alternating("interleaved-1f1b", request, Kind.BW, ahead=2)


def zb_h1(request: Request) -> Schedule:
    """ZB-H1: 1F1B with split backward, in its memory (Zero Bubble, arXiv 2401.10241, section 2).

    B alone reaches the previous rank earlier than a fused backward. Rank p has P-p micro-batches in
    flight in 1F1B, so p more fit into P slots: so many W run at its end, when 1F1B would idle.
    P=3, B=4 (digit: micro-batch):

        rank 0  F0 F1 F2  .  .  B0 W0 F3 B1 W1 B2 W2 B3 W3
        rank 1   .  F0 F1  .  B0 F2 B1 W0 F3 B2 W1 B3 W2 W3
        rank 2   .  .  F0 B0 F1 B1 F2 B2 W0 F3 B3 W1 W2 W3

    For B >= P and T_W no longer than T_F and T_B: bubble (P-1)(T_F+T_B-T_W), of the longest span
    and of the makespan alike; peak P slots on every rank (Table 2 of the paper).
    """
    return _alternating("zb-h1", request, Kind.B, ahead=1, delay=1)


def zb_h2(request: Request) -> Schedule:
    """ZB-H2: twice ZB-H1's head start, so that no rank idles (arXiv 2401.10241, section 2).

    Every rank works without a gap, the later ones later. P=3, B=6 (digit: micro-batch):

        rank 0  F0 F1 F2 F3 F4 B0 W0 F5 B1 W1 B2 W2 B3 W3 B4 W4 B5 W5
        rank 1   .  F0 F1 F2 B0 F3 B1 F4 B2 W0 F5 B3 W1 B4 W2 B5 W3 W4 W5
        rank 2   .  .  F0 B0 F1 B1 F2 B2 F3 B3 F4 B4 W0 F5 B5 W1 W2 W3 W4 W5

    For B >= 2P-1 and T_W no longer than T_F and T_B: bubble (P-1)(T_F+T_B-2T_W), peak 2P-1 slots on
    every rank (Table 2 of the paper). The paper's bubble is the idle time in a rank's own span, the
    longest of which counts; the makespan exceeds the work by (P-1)T_F at least, as rank P-1 starts
    that late.
    """
    return _alternating("zb-h2", request, Kind.B, ahead=2, delay=2)


def gis(request: Request) -> Schedule:
    """GIS: interleaved 1F1B, split, with less head start (PipeOffload, arXiv 2503.01328).

    Interleaved 1F1B starts 2(P-1-p) forwards ahead because a fused backward reaches rank p late. B
    alone is short enough that P-1-p suffice. P=2, V=2, B=4 (digits: stage and micro-batch):

        rank 0  F00 F01 F20 F21   . B20 W20 F02 B21 W21 F03 B00 W00 F22 B01 W01 F23 B22 W22 ...
        rank 1    . F10 F11 F30 B30 W30 F31 B31 W31 F12 B10 W10 F13 B11 W11 F32 B32 W32 F33 ...

    Rank 0 waits for the first B, (P-1) T_B/V, and once more in the cool-down, (P-1) T_F/V. So where
    P divides B the bubble is (P-1)(T_F+T_B)/V, for any times; peak PV slots (rank 0).
    """
    return _alternating("gis", request, Kind.B, ahead=1)


def turn_sizes(request: Request) -> tuple[int, ...]:
    """The micro-batches of each turn: P, where P divides B.

    Elsewhere the turns are of nearly equal size and none is below P (B < P: one turn of B), since
    a turn below P would leave ranks waiting for the next chunk.
    """
    total = request.num_microbatches
    return split_evenly(total, max(1, total // request.pp_size))


def first_turn(request: Request) -> int:
    """The micro-batches of the first turn, which no other exceeds."""
    return turn_sizes(request)[0]


def held(request: Request, ahead: int) -> int:
    """The slots that the first rank fills before its first backward, and never exceeds."""
    return (request.num_chunks - 1) * first_turn(request) + ahead * (request.pp_size - 1) + 1


def alternate(
    placement: Placement,
    rank: int,
    turns: Sequence[range],
    backward: Kind,
    ahead: int,
    delay: int = 0,
) -> Iterator[Action]:
    """What `rank` runs of these turns; see the table above. `backward`: B, or BW (fused)."""
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


def _alternating(
    name: str, request: Request, backward: Kind, ahead: int, delay: int = 0
) -> Schedule:
    placement, turns = request.placement(), in_blocks(turn_sizes(request))
    return request.schedule(
        name, lambda rank: alternate(placement, rank, turns, backward, ahead, delay)
    )


def _fill_and_drain(name: str, request: Request) -> Schedule:
    placement, batch = request.placement(), [range(request.num_microbatches)]

    def order(rank: int) -> Iterator[Action]:
        stages = placement.stages_of(rank)
        yield from _in_turns(Kind.F, stages, batch)
        yield from _in_turns(Kind.BW, stages[::-1], batch)

    return request.schedule(name, order)


def _in_turns(kind: Kind, stages: tuple[int, ...], turns: Sequence[range]) -> Iterator[Action]:
    """In each turn, every stage runs that turn's micro-batches."""
    return (Action(kind, stage, m) for turn in turns for stage in stages for m in turn)

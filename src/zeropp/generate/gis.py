"""GIS: interleaved 1F1B with split backward and a shorter warm-up (PipeOffload, arXiv 2503.01328).

Interleaved 1F1B starts 2(P-1-p) forwards ahead because a fused backward reaches rank p late. B
alone is short enough that P-1-p suffice. P=2, V=2, B=4 (digits: stage and micro-batch):

    rank 0  F00 F01 F20 F21   . B20 W20 F02 B21 W21 F03 B00 W00 F22 B01 W01 F23 B22 W22 ...
    rank 1    . F10 F11 F30 B30 W30 F31 B31 W31 F12 B10 W10 F13 B11 W11 F32 B32 W32 F33 ...

Rank 0 waits for the first B, (P-1) T_B/V, and once more in the cool-down, (P-1) T_F/V.
"""

from zeropp.generate.alternate import alternate_split
from zeropp.generate.request import Request
from zeropp.generate.turns import in_turns, turn_sizes
from zeropp.ir.action import Kind
from zeropp.ir.schedule import Schedule


def gis(request: Request) -> Schedule:
    """Generalised interleaved schedule: W right after B, P-1-p forwards of head start.

    Where P divides B: bubble (P-1)(T_F+T_B)/V, for any times of F, B and W; peak PV slots (rank 0).
    Elsewhere turns are longer than P and the peak grows by V-1 slots per micro-batch above P.
    """
    turns = turn_sizes(request)
    placement = request.placement()
    head_start = (request.num_chunks - 1) * turns[0] + request.pp_size - 1
    orders = []
    for rank in range(request.pp_size):
        stages = placement.stages_of(rank)
        forwards = in_turns(Kind.F, stages, turns)
        backwards = in_turns(Kind.B, stages[::-1], turns)
        orders.append(tuple(alternate_split(forwards, backwards, head_start - rank, delay=0)))
    return Schedule("gis", placement, (request.num_microbatches,), tuple(orders))

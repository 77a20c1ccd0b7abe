"""ZB-V: no idle time in 1F1B's memory, on a vee (Zero Bubble, arXiv 2401.10241, section 6).

The paper finds the order by a greedy search; here it is a building block (arXiv 2405.15362). With
down+up = 6 ticks, all ranks look alike modulo 6, counted from their F0: F0 F1 B1 B0 and two W.

    P=3     0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27
    rank 0 F0  .  .  .  .  .  .  .  .  .  .  .  . F1 B1  .  .  .  .  .  .  .  .  .  .  .  . B0
    rank 1  . F0  .  .  .  .  .  . F1  .  .  .  .  .  . B1  .  .  .  .  .  . B0  .  .  .  .  .
    rank 2  .  . F0 F1  .  .  .  .  .  .  .  .  .  .  .  . B1 B0  .  .  .  .  .  .  .  .  .  .

Squeezed, rank 0 would have P forwards to run before F1 of micro-batch 0 is there, at tick 2P-1.
Pulling forwards of chunk 0 ahead fills that wait. P=2, B=4 (f, b, w: chunk 1):

    rank 0  F0 F1 F2 f0 b0 w0 f1 b1 B0 w1 F3 W0 f2 b2 B1 w2 W1 f3 b3 B2 w3 B3 W2 W3
    rank 1   . F0 f0 F1 f1 b0 B0 w0 F2 W0 f2 b1 B1 w1 F3 W1 f3 b2 B2 b3 B3 w2 W2 w3 W3

As for ZB-H2, "no idle time" is a rank's own span: rank p starts p passes late, so that a barrier at
the step's end exposes P-1 passes.
"""

from zeropp.generate.building_block import BuildingBlock
from zeropp.generate.request import Request
from zeropp.generate.squeeze import squeeze
from zeropp.ir.schedule import Schedule


def zb_v(request: Request) -> Schedule:
    """P micro-batches' memory on every rank: peak 2P slots, for B >= 2P-1.

    For B >= 2P-1, T_F = T_B and T_W no longer, the bubble of the longest span is
    (P-1)(T_F+T_B-2T_W)/2: none at equal times. The makespan is (P-1)T_F/2 over the work at least.

    Raises:
        ValueError: V is not 2.
    """
    placement = request.vee("zb-v")
    order = BuildingBlock(down=1, up=5).repeat("zb-v", placement, request.num_microbatches)
    return squeeze(order, slots=2 * request.pp_size, early=True)

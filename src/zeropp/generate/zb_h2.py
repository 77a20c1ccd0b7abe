"""ZB-H2: twice ZB-H1's warm-up, so that no rank idles (Zero Bubble, arXiv 2401.10241, section 2).

Rank p runs 2(P-1-p) forwards ahead, which fill its wait for the first B, and lets 2p W wait for
the end. Every rank works without a gap, the later ones later. P=3, B=6 (digit: micro-batch):

    rank 0  F0 F1 F2 F3 F4 B0 W0 F5 B1 W1 B2 W2 B3 W3 B4 W4 B5 W5
    rank 1   .  F0 F1 F2 B0 F3 B1 F4 B2 W0 F5 B3 W1 B4 W2 B5 W3 W4 W5
    rank 2   .  .  F0 B0 F1 B1 F2 B2 F3 B3 F4 B4 W0 F5 B5 W1 W2 W3 W4 W5

The paper's bubble is the idle time in a rank's own span, from its first start to its last end; the
longest span counts. Where all ranks wait for each other at the step's end, the makespan exceeds the
work by (P-1)T_F at least, as rank P-1 starts that late.
"""

from zeropp.generate.alternate import alternate_split
from zeropp.generate.request import Request
from zeropp.ir.action import Action, Kind
from zeropp.ir.schedule import Schedule


def zb_h2(request: Request) -> Schedule:
    """2(P-1-p) warm-up forwards, then F, B and, from B number 2p on, the oldest W.

    For B >= 2P-1 and T_W no longer than T_F and T_B: bubble of the longest span
    (P-1)(T_F+T_B-2T_W), peak 2P-1 slots on every rank (Table 2 of the paper).

    Raises:
        ValueError: V is not 1.
    """
    request.refuse_chunks("zb-h2", instead="gis")
    batch = range(request.num_microbatches)
    actions = tuple(
        tuple(
            alternate_split(
                [Action(Kind.F, rank, m) for m in batch],
                [Action(Kind.B, rank, m) for m in batch],
                warmup=2 * (request.pp_size - 1 - rank),
                delay=2 * rank,
            )
        )
        for rank in range(request.pp_size)
    )
    return Schedule("zb-h2", request.placement(), (request.num_microbatches,), actions)

"""ZB-H1: 1F1B with split backward, in 1F1B's memory (Zero Bubble, arXiv 2401.10241, section 2).

B alone reaches the previous rank earlier than a fused backward. Rank p has P-p micro-batches in
flight in 1F1B, so p more fit into P slots: it lets its first p W wait, and runs them at its end,
when 1F1B would idle. P=3, B=4 (digit: micro-batch):

    rank 0  F0 F1 F2  .  .  B0 W0 F3 B1 W1 B2 W2 B3 W3
    rank 1   .  F0 F1  .  B0 F2 B1 W0 F3 B2 W1 B3 W2 W3
    rank 2   .  .  F0 B0 F1 B1 F2 B2 W0 F3 B3 W1 W2 W3
"""

from zeropp.generate.alternate import alternate_split
from zeropp.generate.request import Request
from zeropp.ir.action import Action, Kind
from zeropp.ir.schedule import Schedule


def zb_h1(request: Request) -> Schedule:
    """P-1-p warm-up forwards, then F, B and, from B number p on, the oldest W.

    For B >= P and T_W no longer than T_F and T_B: bubble (P-1)(T_F+T_B-T_W), of the longest span
    and of the makespan alike; peak P slots on every rank (Table 2 of the paper).

    Raises:
        ValueError: V is not 1.
    """
    request.refuse_chunks("zb-h1", instead="gis")
    batch = range(request.num_microbatches)
    actions = tuple(
        tuple(
            alternate_split(
                [Action(Kind.F, rank, m) for m in batch],
                [Action(Kind.B, rank, m) for m in batch],
                warmup=request.pp_size - 1 - rank,
                delay=rank,
            )
        )
        for rank in range(request.pp_size)
    )
    return Schedule("zb-h1", request.placement(), (request.num_microbatches,), actions)

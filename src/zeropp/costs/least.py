"""The floor: a makespan that no schedule of a placement can beat.

                start-up         own F, B and W               exit
    rank 0      |FFFFFFFFFFFFFFFFFFFFFFFFBBBBBBBBWWWWWWWW
    rank 1        c FFFF ...                      BB c B W     the last B still passes rank 0
    rank P-1            c c FFFF ...

Rank p cannot start before micro-batch 0 has come down to its first stage s: sum of F before s plus
the hops. Then it owes B times its own F, B and W. After its last B, whichever stage it belongs to,
a gradient has at least to pass the stages before s, and the W of stage 0. One micro-batch alone is
a chain through every F and B: PV(f+b) + w + (2PV-2)c where stages are equal.
"""

from zeropp.costs.costs import Costs
from zeropp.ir.placement import Placement


def floor(placement: Placement, num_microbatches: int, costs: Costs) -> float:
    """The larger of the ranks' bounds and the critical chain, in the unit of `costs`.

    Raises:
        ValueError: `costs` lists another number of stages than `placement` has.
    """
    if costs.num_stages != placement.num_stages:
        raise ValueError(
            f"costs must list {placement.num_stages} stages (pp_size x num_chunks), "
            f"got {costs.num_stages}"
        )
    ranks = range(placement.pp_size)
    return max(
        _critical_chain(placement, costs),
        *(_rank_bound(placement, rank, num_microbatches, costs) for rank in ranks),
    )


def _critical_chain(placement: Placement, costs: Costs) -> float:
    hops = 2 * sum(placement.hops)
    return sum(costs.forward) + sum(costs.backward) + costs.weight[0] + hops * costs.latency


def _rank_bound(placement: Placement, rank: int, batch: int, costs: Costs) -> float:
    stages = placement.stages_of(rank)
    first = stages[0]
    hops = sum(placement.hops[:first]) * costs.latency
    start = sum(costs.forward[:first]) + hops
    chain = batch * sum(costs.forward[s] + costs.backward[s] for s in stages)
    own_weight = batch * sum(costs.weight[s] for s in stages)
    leave = sum(costs.backward[:first]) + hops + costs.weight[0]
    return start + chain + max(own_weight, leave)

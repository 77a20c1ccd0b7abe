"""The floor: a makespan that no schedule of a placement can beat, in the memory that it has.

                start-up    own F's, a gap,      own F, B and W          exit
    rank 0      |FFFFFFFFFF . . . .         BFBFBFBFBBBBBBWWWWWWW
    rank 1        c FFFF ...                      BB c B W     the last B still passes rank 0
    rank P-1            c c FFFF ...

Rank p cannot start before micro-batch 0 has come down to its first stage s: sum of F before s plus
the hops. Then it owes B times its own F, B and W. Until a micro-batch has gone on to the last stage
and back to the rank's last one, it can only run F's, at most as many as it has slots, and idles for
the rest of that time: the gap. After its last B, whichever stage it belongs to, a gradient has at
least to pass the stages before s, and the W of stage 0; meanwhile the rank can only run W's, again
at most as many as slots. One micro-batch alone is a chain through every F and B: PV(f+b) + w +
(2PV-2)c where stages are equal.
"""

from collections.abc import Sequence

from zeropp.costs.costs import Costs
from zeropp.ir.placement import Placement


def floor(
    placement: Placement, num_microbatches: int, costs: Costs, slots: int | None = None
) -> float:
    """The larger of the ranks' bounds and the critical chain, in the unit of `costs`.

    Args:
        placement: stage -> rank.
        num_microbatches: B.
        costs: times of the stages and of a hop.
        slots: most activations that a rank holds; None: as many as it likes.

    Raises:
        ValueError: `costs` lists another number of stages than `placement` has.
    """
    if costs.num_stages != placement.num_stages:
        raise ValueError(
            f"costs must list {placement.num_stages} stages (pp_size x num_chunks), "
            f"got {costs.num_stages}"
        )
    everything = placement.num_chunks * num_microbatches
    most = everything if slots is None else min(slots, everything)
    ranks = range(placement.pp_size)
    return max(
        _critical_chain(placement, costs),
        *(_rank_bound(placement, rank, num_microbatches, costs, most) for rank in ranks),
    )


def _critical_chain(placement: Placement, costs: Costs) -> float:
    hops = 2 * sum(placement.hops)
    return sum(costs.forward) + sum(costs.backward) + costs.weight[0] + hops * costs.latency


def _rank_bound(placement: Placement, rank: int, batch: int, costs: Costs, most: int) -> float:
    stages, hops = placement.stages_of(rank), placement.hops
    first, last = stages[0], stages[-1]
    before = sum(hops[:first]) * costs.latency
    start = sum(costs.forward[:first]) + before
    forth_and_back = (sum(hops[first:]) + sum(hops[last:])) * costs.latency
    turn = sum(costs.forward[first:]) + sum(costs.backward[last + 1 :]) + forth_and_back
    gap = max(0.0, turn - _longest(costs.forward, stages, batch, most))
    own = batch * sum(costs.forward[s] + costs.backward[s] + costs.weight[s] for s in stages)
    leave = sum(costs.backward[:first]) + before + costs.weight[0]
    return start + gap + own + max(0.0, leave - _longest(costs.weight, stages, batch, most))


def _longest(times: Sequence[float], stages: Sequence[int], batch: int, most: int) -> float:
    """The longest `most` of these times, each of which comes `batch` times."""
    total = 0.0
    for time in sorted((times[stage] for stage in stages), reverse=True):
        total += min(batch, most) * time
        most -= min(batch, most)
    return total

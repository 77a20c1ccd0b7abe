"""`zeropp train --rehearse`: a plan proven to run, on this machine, before it takes a cluster."""

import torch.distributed as dist

from zeropp.costs import Costs
from zeropp.measure.rehearsal import rehearse
from zeropp.plan import Plan

ACTION_S = 0.010


def rehearse_plan(plan: Plan) -> None:
    """Rehearse with equal times for every F, B and W, and say how it went; on every rank."""
    times = (ACTION_S,) * plan.placement.num_stages
    result = rehearse(plan, Costs(times, times, times))
    if dist.get_rank() == 0:
        actions = sum(map(len, plan.compute.actions))
        print(
            f"{plan.world_size} ranks ran the program of {plan.schedule}: {actions} compute "
            f"actions of {ACTION_S * 1e3:.0f} ms, a hop of {result.latency_s * 1e6:.0f} us\n"
            f"step: {result.predicted_s:.3f} s predicted, {result.measured_s:.3f} s measured "
            f"({result.measured_s / result.predicted_s - 1:+.1%})"
        )

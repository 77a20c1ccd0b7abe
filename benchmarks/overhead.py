"""The runtime's own cost: steps with emulated compute against their simulated makespan, and the
executor's time per action.

Run: python benchmarks/overhead.py [--json]; about two minutes on two cores.
"""

import sys
from pathlib import Path
from typing import Any

import torch

from claim import Figure, parser, report

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.ranks import run_ranks  # the tests' own way to run processes
from zeropp.costs import Costs
from zeropp.measure.rehearsal import rehearse
from zeropp.plan import Plan

CLAIM = "A step takes what the simulator says"

ACTION_S = 0.020


def emulated(plans: list[Plan]) -> list[tuple[float, float, float]]:
    """For each plan, simulated and measured step and the latency, in seconds; on a rank."""
    found = []
    for plan in plans:
        stages = plan.placement.num_stages
        times = (ACTION_S,) * stages
        result = rehearse(plan, Costs(times, times, times), steps=3)
        found.append((result.simulated_s, result.measured_s, result.latency_s))
    return found


def executor_cost() -> float:
    """Seconds per compute action of a step without sleep, on one rank, tiny tensors included."""
    plan = Plan(1, 4, 32, "zeropp", 4)
    nothing = Costs((1e-9,) * 4, (0.0,) * 4, (0.0,) * 4)
    rehearse(plan, nothing, steps=20)
    result = rehearse(plan, nothing, steps=100)
    return result.measured_s / (3 * 4 * 32)


def main() -> int:
    """Measure and report."""
    wanted = parser(CLAIM).parse_args()
    figures, rows = [], []
    for P in (4, 8):
        plans = [
            Plan(P, 2, 2 * P, "zeropp", P),
            Plan(P, 2, 2 * P, "zeropp", P, "drain"),
            Plan(P, 2, 2 * P, "interleaved-1f1b"),
            Plan(P, 1, 2 * P, "1f1b"),
            Plan(P, 2, 2 * P, "zb-v"),
        ]
        measured = run_ranks(P, emulated, plans, timeout=300)[0]
        for plan, (simulated, seconds, latency) in zip(plans, measured, strict=True):
            name = f"{plan.schedule}{'' if plan.seam is None else ' ' + plan.seam}"
            figures.append(Figure(f"P={P} {name}: step", seconds / simulated, 1.03, "times"))
            row: dict[str, Any] = {"P": P, "schedule": name}
            row |= {"simulated_s": round(simulated, 3), "measured_s": round(seconds, 3)}
            rows.append(row | {"latency_us": round(latency * 1e6)})
    (cost,) = run_ranks(1, executor_cost)
    figures.append(Figure("executor, per action", cost * 1e6, 200, "us"))
    return report(CLAIM, rows, figures, wanted)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())

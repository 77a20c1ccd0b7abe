"""The runtime's own cost: steps with emulated compute against their simulated makespan, and the
executor's time per action.

Run: python benchmarks/overhead.py [--json]; about two minutes on two cores.
"""

from support.claim import Figure, Row, run
from support.ranks import run_ranks
from zeropp.costs import Costs
from zeropp.measure.rehearsal import Rehearsal, rehearse
from zeropp.plan import Plan

CLAIM = "A step takes what the simulator says"

ACTION_S = 0.020


def _plans(P: int) -> list[Plan]:
    return [
        Plan(P, 2, 2 * P, "zeropp", P),
        Plan(P, 2, 2 * P, "zeropp", P, "drain"),
        Plan(P, 2, 2 * P, "interleaved-1f1b"),
        Plan(P, 1, 2 * P, "1f1b"),
        Plan(P, 2, 2 * P, "zb-v"),
    ]


def rehearsed(P: int) -> list[Rehearsal]:
    """Every plan, on a rank."""
    every = ((plan, (ACTION_S,) * (plan.pp_size * plan.num_chunks)) for plan in _plans(P))
    return [rehearse(plan, Costs(times, times, times), steps=3) for plan, times in every]


def executor_cost() -> float:
    """Seconds per compute action of a step without sleep, on one rank, tiny tensors included."""
    plan = Plan(1, 4, 32, "zeropp", 4)
    nothing = Costs((1e-9,) * 4, (0.0,) * 4, (0.0,) * 4)
    rehearse(plan, nothing, steps=20)
    result = rehearse(plan, nothing, steps=100)
    return result.measured_s / (3 * 4 * 32)


def measure() -> tuple[list[Row], list[Figure]]:
    """A row and a figure for each plan."""
    figures, rows = [], []
    for P in (4, 8):
        ranks = run_ranks(P, rehearsed, P, timeout=300)
        for plan, found in zip(_plans(P), ranks[0], strict=True):
            name = f"{plan.schedule}{'' if plan.seam is None else ' ' + plan.seam}"
            ratio = found.measured_s / found.simulated_s
            figures.append(Figure(f"P={P} {name}: step", ratio, 1.03, "times"))
            row: Row = {"P": P, "schedule": name, "simulated_s": round(found.simulated_s, 3)}
            row |= {"measured_s": round(found.measured_s, 3)}
            rows.append(row | {"latency_us": round(found.latency_s * 1e6)})
    (cost,) = run_ranks(1, executor_cost)
    figures.append(Figure("executor, per action", cost * 1e6, 200, "us"))
    return rows, figures


if __name__ == "__main__":
    run(CLAIM, measure)

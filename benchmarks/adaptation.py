"""Adapting while training: how much of a loss is won back within ten steps.

    a rank slows down    all its F, B and W take 30 % longer from one step to the next
    costs were wrong     the order was made for a W twice as long as it is

Run: python benchmarks/adaptation.py [--json]; four ranks that sleep, about five minutes.

The loss is the step's time above that of the order which is made for the true times, within the
same memory, measured in the same run.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from claim import Figure, parser, report

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.ranks import run_ranks
from zeropp.costs import Costs
from zeropp.measure.adapt import Adapter, better_order
from zeropp.measure.rehearsal import WIDTH, EmulatedCompute, tiny_blocks, tiny_loss
from zeropp.plan import Plan
from zeropp.runtime.observer import Several
from zeropp.runtime.pipeline import Pipeline

CLAIM = "Half of a loss is won back within ten steps"

P, V, B, U = 4, 2, 16, 4
ACTION_S = 0.015
EVERY, WITHIN, MEASURED, SLOWER = 4, 10, 5, 1.3
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """What was assumed when the plan was made, what is so, and who slows down."""

    name: str
    seam: str
    assumed_weight: float = 1.0
    true_weight: float = 1.0
    slow_rank: int | None = None

    @property
    def plan(self) -> Plan:
        """Made for what was assumed."""
        return Plan(P, V, B, unit_size=U, seam=self.seam, costs=costs(self.assumed_weight))

    @property
    def true_costs(self) -> Costs:
        """As it is after the slow-down."""
        made = costs(self.true_weight)
        if self.slow_rank is not None:
            for stage in self.plan.placement.stages_of(self.slow_rank):
                made = made.scaled(stage, SLOWER)
        return made


CASES = (
    Case("rank 0 slows, drained", "drain", slow_rank=0),
    Case("rank 1 slows, drained", "drain", slow_rank=1),
    Case("rank 2 slows, drained", "drain", slow_rank=2),
    Case("W half as long, carried", "carry", true_weight=0.5),
    Case("W half as long, drained", "drain", true_weight=0.5),
)


def costs(weight: float) -> Costs:
    """Seconds of every stage; W takes `weight` times as long as F and B."""
    times = (ACTION_S,) * (P * V)
    return Costs(times, times, tuple(weight * t for t in times))


def seconds_of(step: Callable[[], object], times: int) -> float:
    """Median of so many steps."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        step()
        found.append(time.perf_counter() - start)
    return median(found)


def run_case(case: Case) -> tuple[float, float, float, int]:
    """Seconds of a step: with the loss, adapted, and as it could be; and when it switched."""
    batch, true = torch.zeros(B, WIDTH), case.true_costs
    pipe = Pipeline(tiny_blocks(P * V), tiny_loss, case.plan, device=CPU)
    adapter, emulated = Adapter(pipe, EVERY), EmulatedCompute(costs(case.true_weight))
    laps = Several(emulated, adapter.times)

    def step() -> None:
        pipe.step((batch, batch), trace=laps)

    for _ in range(3):
        step()
    if case.slow_rank == pipe.rank:
        for stage in case.plan.placement.stages_of(pipe.rank):
            emulated.slow_down(stage, SLOWER)
    loss = seconds_of(step, MEASURED)
    adapter.times.take()
    switched = WITHIN + 1
    for number in range(WITHIN):
        step()
        if adapter.after_step() is not None:
            switched = min(switched, number + 1)
    adapted = seconds_of(step, MEASURED)
    pipe.close()
    return loss, adapted, as_it_could_be(case, true, batch), switched


def as_it_could_be(case: Case, true: Costs, batch: torch.Tensor) -> float:
    """Seconds of a step of the order that is made for the true times."""
    program = case.plan.lower(case.plan.compute, sharded=False)
    ideal = better_order(case.plan, program, true)
    plan = case.plan if ideal is None else ideal.plan
    pipe = Pipeline(tiny_blocks(P * V), tiny_loss, plan, device=CPU)
    emulated = EmulatedCompute(true)
    pipe.step((batch, batch), trace=emulated)
    found = seconds_of(lambda: pipe.step((batch, batch), trace=emulated), MEASURED)
    pipe.close()
    return found


def run_all() -> list[tuple[float, float, float, int]]:
    """Every case, on one rank."""
    return [run_case(case) for case in CASES]


def main() -> int:
    """Measure and report."""
    wanted = parser(CLAIM).parse_args()
    rows, figures = [], []
    for case, found in zip(CASES, run_ranks(P, run_all, timeout=560)[0], strict=True):
        loss, adapted, could_be, switched = found
        won = (loss - adapted) / (loss - could_be)
        row = {"case": case.name, "with_the_loss_s": round(loss, 3), "adapted_s": round(adapted, 3)}
        rows.append(row | {"could_be_s": round(could_be, 3), "switched_after_steps": switched})
        figures.append(Figure(f"{case.name}: loss not won back", 100 * (1 - won), 50.0))
    return report(CLAIM, rows, figures, wanted)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())

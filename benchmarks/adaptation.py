"""Adapting while training: how much of a loss is won back within ten steps.

    a rank slows down    all its F, B and W take 30 % longer from one step to the next
    costs were wrong     the order was made for a W twice as long as it is

Run: python benchmarks/adaptation.py [--json]; four ranks that sleep, about five minutes.

The loss is a step's time above that of the order made for the true times, within the same memory.
"""

from dataclasses import dataclass
from functools import partial
from statistics import median

import torch

from support.claim import Figure, Row, run
from support.ranks import run_ranks
from support.sides import seconds
from support.torch_runtime import CPU
from zeropp.build import pipeline, program_of
from zeropp.costs import Costs
from zeropp.measure.adapt import Adapter, better_order
from zeropp.measure.rehearsal import WIDTH, EmulatedCompute, tiny_blocks, tiny_loss
from zeropp.plan import Plan
from zeropp.program import without_collectives
from zeropp.runtime import Observer, Observers
from zeropp.runtime.pipeline import Pipeline

CLAIM = "Half of a loss is won back within ten steps"

P, V, B, U = 4, 2, 16, 4
ACTION_S = 0.015
BATCH = torch.zeros(B, WIDTH), torch.zeros(B, WIDTH)
EVERY, WITHIN, MEASURED, SLOWER = 4, 10, 5, 1.3


@dataclass(frozen=True)
class Case:
    """What is so where it was assumed that W takes what F does, and which stages slow down."""

    name: str
    seam: str
    weight: float = 1.0
    slow_stages: tuple[int, ...] = ()

    @property
    def plan(self) -> Plan:
        """Made for what was assumed."""
        return Plan(P, V, B, unit_size=U, seam=self.seam, costs=costs(1.0))

    @property
    def true_costs(self) -> Costs:
        """As it is after the slow-down."""
        made = costs(self.weight)
        for stage in self.slow_stages:
            made = made.scaled(stage, SLOWER)
        return made


CASES = (
    *(Case(f"rank {r} slows, drained", "drain", slow_stages=(r, P + r)) for r in range(3)),
    Case("W half as long, carried", "carry", weight=0.5),
    Case("W half as long, drained", "drain", weight=0.5),
)


def costs(weight: float) -> Costs:
    """Seconds of every stage; W takes `weight` times as long as F and B."""
    times = (ACTION_S,) * (P * V)
    return Costs(times, times, tuple(weight * t for t in times))


def _seconds_of(pipe: Pipeline, laps: Observer) -> float:
    step = partial(pipe.step, BATCH, observer=laps)
    return median(seconds(step) for _ in range(MEASURED))


def run_case(case: Case) -> Row:
    """Seconds of a step: with the loss, adapted, and as it could be; and when it switched."""
    pipe = pipeline(tiny_blocks(P * V), tiny_loss, case.plan, device=CPU)
    adapter, emulated = Adapter(pipe, case.plan, EVERY), EmulatedCompute(costs(case.weight))
    laps = Observers(emulated, adapter.times)
    for _ in range(3):
        pipe.step(BATCH, observer=laps)
    for stage in case.slow_stages:
        emulated.slow_down(stage, SLOWER)
    loss = _seconds_of(pipe, laps)
    adapter.times.take()
    switched = WITHIN + 1
    for number in range(WITHIN):
        pipe.step(BATCH, observer=laps)
        if adapter.after_step() is not None:
            switched = min(switched, number + 1)
    adapted = _seconds_of(pipe, laps)
    pipe.close()
    row = {"case": case.name, "with_the_loss_s": round(loss, 4), "adapted_s": round(adapted, 4)}
    return row | {"could_be_s": round(as_it_could_be(case), 4), "switched_after_steps": switched}


def as_it_could_be(case: Case) -> float:
    """Seconds of a step of the order that is made for the true times."""
    program = without_collectives(program_of(case.plan))
    ideal = better_order(case.plan, program, case.true_costs)
    plan, emulated = ideal.plan if ideal else case.plan, EmulatedCompute(case.true_costs)
    pipe = pipeline(tiny_blocks(P * V), tiny_loss, plan, device=CPU)
    pipe.step(BATCH, observer=emulated)
    found = _seconds_of(pipe, emulated)
    pipe.close()
    return found


def _run_all() -> list[Row]:
    return [run_case(case) for case in CASES]


def measure() -> tuple[list[Row], list[Figure]]:
    """A row and a figure for each case."""
    rows, figures = run_ranks(P, _run_all, timeout=560)[0], []
    for row in rows:
        left, loss = (row[k] - row["could_be_s"] for k in ("adapted_s", "with_the_loss_s"))
        figures.append(Figure(f"{row['case']}: loss not won back", 100 * left / loss, 50.0))
    return rows, figures


if __name__ == "__main__":
    run(CLAIM, measure)

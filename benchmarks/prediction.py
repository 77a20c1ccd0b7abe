"""Predicted against measured: step time of emulated pipelines with uneven stages and slow links,
and of a real GPT over two ranks from its measured profile, with its memory by category.

Run: python benchmarks/prediction.py [--json]; two to eight ranks, about six minutes on two cores.

A shared machine is faster at one minute than at the next: predictions of a profile right before a
measured step of the GPT, and of one right after it, are averaged.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, pairwise
from statistics import mean, median
from typing import Any

from support.claim import Figure, Row, run
from support.gpt import Task
from support.ranks import run_ranks
from support.sides import Side, forget_gradients, seconds
from support.torch_runtime import CPU
from zeropp.costs import Costs
from zeropp.ir import Action
from zeropp.ir.model import GPTConfig
from zeropp.measure.memory import Alive
from zeropp.measure.profiling import measure as blocks_of
from zeropp.measure.profiling import profile
from zeropp.measure.rehearsal import rehearse
from zeropp.plan import Plan
from zeropp.planner import Problem
from zeropp.planner.layout import Layout
from zeropp.planner.pricing import cut, price
from zeropp.planner.profile import Profile, Setting
from zeropp.runtime.executor import Phase
from zeropp.runtime.mesh import gathered
from zeropp.runtime.pipeline import Pipeline
from zeropp.simulate import Category, Report, simulate
from zeropp.train.gpt import demo_gpt
from zeropp.train.model import subject_of

CLAIM = "A step takes, and holds, what is predicted"

T = 0.020  # seconds of an emulated action
GPT = GPTConfig(256, 256, layers=6, hidden=384, heads=6, positions="rotary", bias=False)
TASK = Task(GPT, B=8, samples=4)
ROUNDS = 7
REAL = (
    Plan(2, 1, TASK.B, "1f1b", split=(4, 4)),
    Plan(2, 1, TASK.B, unit_size=4, split=(4, 4)),
    Plan(2, 2, TASK.B, unit_size=2, split=(2, 2, 2, 2)),
)


@dataclass(frozen=True)
class Case:
    """An emulated pipeline: factors of its stages' times, and its links."""

    name: str
    plan: Plan
    factors: tuple[float, ...] = ()
    weight: float = 1.0
    latency: float = 0.0
    links: Mapping[str, Any] = field(default_factory=dict)  # fields of costs

    def costs(self) -> Costs:
        """Seconds of every stage."""
        stages = self.plan.pp_size * self.plan.num_chunks
        times = tuple(T * f for f in (self.factors or (1.0,) * stages))
        return Costs(
            times, times, tuple(self.weight * t for t in times), self.latency, **self.links
        )


CASES = (
    Case("1F1B", Plan(2, 1, 8, "1f1b")),
    Case("ZeroPP, V=4", Plan(2, 4, 6, unit_size=2)),
    Case("ZeroPP, V=2", Plan(4, 2, 8, unit_size=4)),
    Case("ZeroPP drained", Plan(4, 2, 8, unit_size=4, seam="drain")),
    Case("interleaved 1F1B", Plan(4, 2, 8, "interleaved-1f1b")),
    Case("uneven stages", Plan(4, 2, 8, unit_size=4), (1.3, 0.8, 1, 1.2, 0.7, 1, 1.1, 0.9)),
    Case("slow last stage", Plan(4, 2, 8, unit_size=4), (1.0,) * 7 + (1.5,)),
    Case("short W", Plan(4, 2, 8, unit_size=4), weight=0.6),
    Case("hops of 6 ms", Plan(4, 2, 8, unit_size=4), latency=0.006),
    Case("transfers of 8 ms", Plan(4, 2, 8, "zb-v"), links={"transfer": 0.008}),
    Case(
        "gathers of 15 ms, reductions of 20 ms",
        Plan(2, 2, 6, unit_size=3, seam="drain", dp_shard=2, max_resident=1),
        links={"gather": 0.015, "reduce": 0.020},
    ),
    Case(
        "gathers of 50 ms, not hidden",
        Plan(2, 4, 4, unit_size=2, dp_shard=2, max_resident=1),
        links={"gather": 0.050, "reduce": 0.030},
    ),
    Case("1F1B", Plan(8, 1, 16, "1f1b")),
    Case("ZeroPP, V=2", Plan(8, 2, 16, unit_size=8)),
    Case("a vee, slow last stage", Plan(8, 2, 16, "zb-v"), (1.0,) * 15 + (1.3,)),
)


def emulate(world: int) -> list[Row]:
    """Every case of so many ranks, on one of them."""
    rows = []
    for case in (case for case in CASES if case.plan.world_size == world):
        found = rehearse(case.plan, case.costs())
        rows.append(row_of(case.name, case.plan, found.predicted_s, found.measured_s))
    return rows


def row_of(name: str, plan: Plan, predicted: float, measured: float) -> Row:
    """Seconds, and how far they are apart in percent."""
    row = {"case": name, "P": plan.pp_size, "V": plan.num_chunks, "B": plan.num_microbatches}
    row |= {"schedule": plan.schedule, "predicted_s": round(predicted, 4)}
    return row | {"measured_s": round(measured, 4), "off_%": round(_off(measured, predicted), 2)}


class Held:
    """The most bytes that are alive at the end of any action and are no sums of gradients."""

    def __init__(self, alive: Alive, pipe: Pipeline) -> None:
        self._alive, self._stages = alive, pipe.stages
        self.most = self.gradients = 0

    def observe(self, action: Action, phase: Phase) -> None:
        """A phase ends."""
        if phase is Phase.COMPUTE:
            sums = sum(stage.parameters.gradients.nbytes for stage in self._stages)
            self.most = max(self.most, self._alive.bytes() - sums)
            self.gradients = max(self.gradients, sums)


def real_gpt() -> list[Row]:
    """Profile, predict and measure every plan, on a rank of two."""
    pipes = [TASK.start(Side(plan.schedule, plan.num_chunks), plan) for plan in REAL]
    batch = TASK.batch()
    for pipe in pipes:
        pipe.step(batch)
    profiles, taken = [_profiled()], []
    for _ in range(ROUNDS):
        for pipe in pipes:
            taken.append(seconds(partial(pipe.step, batch)))
            profiles.append(_profiled())
    found = []
    for index, pipe in enumerate(pipes):
        own = slice(index, None, len(pipes))
        reports = [_simulated(made, pipe) for made in profiles]
        predicted = [mean(r.makespan for r in around) for around in pairwise(reports)][own]
        row = row_of("GPT", REAL[index], median(predicted), median(taken[own]))
        row["off_%"] = round(median(map(_off, taken[own], predicted)), 2)
        held = chain(*(_categories(reports[-1], rank) for rank in range(2)))
        memory_off = map(_off, chain(*_bytes_by_rank(pipe)), held)
        found.append(row | {"memory_off_%": [round(off, 2) for off in memory_off]})
        pipe.close()
    return found


def _off(measured: float, predicted: float) -> float:
    return 100 * (measured / predicted - 1)


def _profiled() -> Profile:
    subject = subject_of(demo_gpt(GPT), GPT.seq_len, (Setting(TASK.samples),))
    return profile(subject, list(blocks_of(subject, CPU)), CPU)


def _simulated(made: Profile, pipe: Pipeline) -> Report:
    """The pipeline's step by a profile, without an optimizer."""
    problem = Problem(made, 2, 2, TASK.samples * TASK.B, split=pipe.program.split)
    layout = Layout(pipe.placement, 1, 1, Setting(TASK.samples))
    priced = price(problem, layout, cut(problem, layout))
    return simulate(pipe.program, replace(priced.costs, optimizer=0.0))


def _bytes_by_rank(pipe: Pipeline) -> list[tuple[float, float]]:
    """The most activations and gradients of a step."""
    forget_gradients(pipe.modules)
    with Alive() as alive:
        held = Held(alive, pipe)
        pipe.step(TASK.batch(), observer=held)
    return gathered((float(held.most), float(held.gradients)))


def _categories(report: Report, rank: int) -> tuple[float, float]:
    """Bytes of activations with messages, and of gradients, at the rank's peak."""
    found = report.memory[rank].at_peak
    kinds = (Category.UNTIL_BACKWARD, Category.UNTIL_WEIGHT, Category.MESSAGES)
    return sum(found[kind] for kind in kinds), found[Category.GRADIENTS]


def measure() -> tuple[list[Row], list[Figure]]:
    """A row for each case, then for each plan of the GPT."""
    rows = [row for P in (2, 4, 8) for row in run_ranks(P, emulate, P, timeout=400)[0]]
    errors = [abs(row["off_%"]) for row in rows]
    real = run_ranks(2, real_gpt, timeout=400)[0]
    time_off = max(abs(row["off_%"]) for row in real)
    memory_off = max(abs(off) for row in real for off in row["memory_off_%"])
    return rows + real, [
        Figure(f"emulated, median of {len(errors)} cases", median(errors), 2.0),
        Figure("emulated, worst case", max(errors), 5.0),
        Figure("real GPT over two ranks, worst of three plans", time_off, 8.0),
        Figure("real GPT, activations and gradients of a rank, worst", memory_off, 10.0),
    ]


if __name__ == "__main__":
    run(CLAIM, measure)

"""Predicted against measured: step time of emulated pipelines with uneven stages and slow links,
and of a real GPT over two ranks from its measured profile, with its memory by category.

Run: python benchmarks/prediction.py [--json]; two to eight ranks, about six minutes on two cores.
"""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
import torch.distributed as dist

from claim import Figure, parser, report

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.ranks import run_ranks
from zeropp.costs import Costs
from zeropp.ir import Action
from zeropp.ir.model import GPTConfig
from zeropp.measure.alive import Alive
from zeropp.measure.profiling import measure, profile
from zeropp.measure.rehearsal import rehearse
from zeropp.models import gpt_blocks, init_block
from zeropp.plan import Plan
from zeropp.planner import Problem
from zeropp.planner.layout import Layout
from zeropp.planner.pricing import cut, price
from zeropp.planner.profile import Profile, Setting
from zeropp.runtime.observer import Laps, Phase
from zeropp.runtime.pipeline import Pipeline
from zeropp.simulate import Category, Report, simulate
from zeropp.train.model import gpt_subject, token_loss

CLAIM = "A step takes, and holds, what is predicted"

T = 0.020  # seconds of an emulated action
GPT = GPTConfig(256, 256, layers=6, hidden=384, heads=6, positions="rotary", bias=False)
SEQUENCES, B, ROUNDS = 4, 8, 7


@dataclass(frozen=True)
class Case:
    """An emulated pipeline: factors of its stages' times, and its links."""

    name: str
    plan: Plan
    factors: tuple[float, ...] = ()
    weight: float = 1.0
    latency: float = 0.0
    traffic: Mapping[str, float] = field(default_factory=dict)

    def costs(self) -> Costs:
        """Seconds of every stage."""
        stages = self.plan.placement.num_stages
        times = tuple(T * f for f in (self.factors or (1.0,) * stages))
        weight = tuple(self.weight * t for t in times)
        return Costs(times, times, weight, self.latency, **self.traffic)


def slow_last(stages: int, factor: float) -> tuple[float, ...]:
    """All equal but the last."""
    return (*(1.0,) * (stages - 1), factor)


CASES = (
    Case("1F1B", Plan(2, 1, 8, "1f1b")),
    Case("ZeroPP, V=4", Plan(2, 4, 6, unit_size=2)),
    Case("ZeroPP, V=2", Plan(4, 2, 8, unit_size=4)),
    Case("ZeroPP drained", Plan(4, 2, 8, unit_size=4, seam="drain")),
    Case("interleaved 1F1B", Plan(4, 2, 8, "interleaved-1f1b")),
    Case("uneven stages", Plan(4, 2, 8, unit_size=4), (1.3, 0.8, 1, 1.2, 0.7, 1, 1.1, 0.9)),
    Case("slow last stage", Plan(4, 2, 8, unit_size=4), slow_last(8, 1.5)),
    Case("short W", Plan(4, 2, 8, unit_size=4), weight=0.6),
    Case("hops of 6 ms", Plan(4, 2, 8, unit_size=4), latency=0.006),
    Case("transfers of 8 ms", Plan(4, 2, 8, "zb-v"), traffic={"transfer": 0.008}),
    Case(
        "gathers of 15 ms, reductions of 20 ms",
        Plan(2, 2, 6, unit_size=3, seam="drain", dp_shard=2, max_resident=1),
        traffic={"gather": 0.015, "reduce": 0.020},
    ),
    Case(
        "gathers of 50 ms, not hidden",
        Plan(2, 4, 4, unit_size=2, dp_shard=2, max_resident=1),
        traffic={"gather": 0.050, "reduce": 0.030},
    ),
    Case("1F1B", Plan(8, 1, 16, "1f1b")),
    Case("ZeroPP, V=2", Plan(8, 2, 16, unit_size=8)),
    Case("a vee, slow last stage", Plan(8, 2, 16, "zb-v"), slow_last(16, 1.3)),
)


def emulate(cases: list[Case]) -> list[tuple[float, float]]:
    """Predicted and measured seconds of each, on a rank."""
    found = []
    for case in cases:
        result = rehearse(case.plan, case.costs())
        found.append((result.predicted_s, result.measured_s))
    return found


class Held:
    """The most bytes of activations and messages, at the end of any action.

    They are what is alive and is no sum of gradients.
    """

    def __init__(self, alive: Alive, pipe: Pipeline) -> None:
        self._alive, self._stages = alive, pipe.stages
        self.most = self.gradients = 0

    def lap(self, action: Action, phase: Phase) -> None:
        """A phase ends."""
        if phase is Phase.COMPUTE:
            sums = sum(stage.parameters.gradients.nbytes for stage in self._stages)
            self.most = max(self.most, self._alive.bytes() - sums)
            self.gradients = max(self.gradients, sums)


@dataclass(frozen=True)
class Real:
    """A real GPT: seconds by round, and for each rank, bytes of activations and of gradients."""

    predicted_s: list[float]
    measured_s: list[float]
    predicted_bytes: tuple[tuple[float, float], ...]
    measured_bytes: tuple[tuple[float, float], ...]

    @property
    def off(self) -> float:
        """Measured over predicted, minus 1: the median of the rounds, in %."""
        pairs = zip(self.measured_s, self.predicted_s, strict=True)
        return 100 * median(measured / predicted - 1 for measured, predicted in pairs)


def real_gpt(plans: list[Plan]) -> list[Real]:
    """Profile, predict and measure, on a rank of two.

    A shared machine is faster at one minute than at the next, so that every measured step has a
    profile right before it and another right after it, whose predictions are averaged.
    """
    pipes = [_pipeline(plan) for plan in plans]
    for pipe in pipes:
        _step(pipe)
    profiles, seconds = [_profiled()], []
    for _ in range(ROUNDS):
        for pipe in pipes:
            seconds.append(_seconds(pipe))
            profiles.append(_profiled())
    found = []
    for index, pipe in enumerate(pipes):
        reports = [_simulated(made, pipe) for made in profiles]
        makespans = [mean(r.makespan for r in around) for around in pairwise(reports)]
        predicted = tuple(_categories(reports[-1], rank) for rank in range(2))
        own = slice(index, None, len(pipes))
        found.append(Real(makespans[own], seconds[own], predicted, _bytes_by_rank(pipe)))
        pipe.close()
    return found


def _pipeline(plan: Plan) -> Pipeline:
    blocks = gpt_blocks(GPT)
    for index, block in enumerate(blocks):
        init_block(block, GPT, index, seed=0)
    return Pipeline(blocks, token_loss, plan)


def _step(pipe: Pipeline, trace: Laps | None = None) -> None:
    tokens = torch.arange(SEQUENCES * B * GPT.seq_len).reshape(SEQUENCES * B, -1) % GPT.vocab_size
    pipe.step((tokens, tokens), trace=trace)


def _seconds(pipe: Pipeline) -> float:
    dist.barrier()
    start = time.perf_counter()
    _step(pipe)
    return time.perf_counter() - start


def _profiled() -> Profile:
    cpu = torch.device("cpu")
    subject = gpt_subject(GPT, GPT.seq_len, (Setting(SEQUENCES),))
    return profile(subject, list(measure(subject, cpu)), cpu)


def _simulated(made: Profile, pipe: Pipeline) -> Report:
    """The pipeline's step by a profile, without an optimizer."""
    problem = Problem(made, 2, 2, SEQUENCES * B, split=pipe.plan.split)
    layout = Layout(pipe.plan.placement, 1, 1, Setting(SEQUENCES))
    priced = price(problem, layout, cut(problem, layout))
    return simulate(pipe.program, replace(priced.costs, optimizer=0.0))


def _bytes_by_rank(pipe: Pipeline) -> tuple[tuple[float, float], ...]:
    """The most activations and gradients of a step."""
    for parameter in pipe.parameters():
        parameter.grad = None
    with Alive() as alive:
        held = Held(alive, pipe)
        _step(pipe, held)
    most: list[tuple[float, float] | None] = [None] * 2
    dist.all_gather_object(most, (float(held.most), float(held.gradients)))
    return tuple(found for found in most if found is not None)


def _categories(report: Report, rank: int) -> tuple[float, float]:
    """Bytes of activations with messages, and of gradients, at the rank's peak."""
    found = report.memory[rank].at_peak
    kinds = (Category.UNTIL_BACKWARD, Category.UNTIL_WEIGHT, Category.MESSAGES)
    return sum(found[kind] for kind in kinds), found[Category.GRADIENTS]


REAL = (
    Plan(2, 1, B, "1f1b", split=(4, 4)),
    Plan(2, 1, B, unit_size=4, split=(4, 4)),
    Plan(2, 2, B, unit_size=2, split=(2, 2, 2, 2)),
)


def main() -> int:
    """Measure and report."""
    wanted = parser(CLAIM).parse_args()
    rows: list[dict[str, Any]] = []
    errors = []
    for world in (2, 4, 8):
        cases = [case for case in CASES if case.plan.world_size == world]
        results = run_ranks(world, emulate, cases, timeout=400)[0]
        for case, (predicted, seconds) in zip(cases, results, strict=True):
            errors.append(abs(seconds / predicted - 1) * 100)
            row: dict[str, Any] = {"case": case.name, "P": case.plan.pp_size}
            row |= {"V": case.plan.num_chunks, "B": case.plan.num_microbatches}
            row |= {"predicted_s": round(predicted, 4), "measured_s": round(seconds, 4)}
            rows.append(row | {"off_%": round((seconds / predicted - 1) * 100, 2)})
    times, memory = [], []
    for plan, real in zip(REAL, run_ranks(2, real_gpt, list(REAL), timeout=400)[0], strict=True):
        times.append(abs(real.off))
        pairs = zip(real.measured_bytes, real.predicted_bytes, strict=True)
        off = [(m / p - 1) * 100 for ms, ps in pairs for m, p in zip(ms, ps, strict=True)]
        memory += [abs(value) for value in off]
        row = {"case": "GPT", "P": 2, "V": plan.num_chunks, "B": B, "schedule": plan.schedule}
        row |= {"predicted_s": round(median(real.predicted_s), 4)}
        row |= {"measured_s": round(median(real.measured_s), 4), "off_%": round(real.off, 2)}
        rows.append(row | {"memory_off_%": [round(value, 1) for value in off]})
    figures = [
        Figure(f"emulated, median of {len(errors)} cases", median(errors), 2.0),
        Figure("emulated, worst case", max(errors), 5.0),
        Figure("real GPT over two ranks, worst of three plans", max(times), 8.0),
        Figure("real GPT, activations and gradients of a rank, worst", max(memory), 10.0),
    ]
    return report(CLAIM, rows, figures, wanted)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())

"""ZeroPP's runtime against torch.distributed.pipelining's: the same stages, micro-batches and
costs, real processes and transfers, compute that sleeps.

Run: python benchmarks/peers.py [--json] [--all]; four and eight ranks, under ten minutes on two
cores. `--all` runs the whole grid of P, B and costs, which takes longer.

Sides run in turn, step by step, so each ratio is of two steps that ran one after the other. Costs
are those of one micro-batch's F, B and W through a whole rank; each of V stages takes 1/V of it.
Our orders are made for the costs and the measured latency; torch's are fixed. Building, warming up
and torch's inference of shapes are not measured. torch's first stage does not split its backward;
everything that it runs is counted, and every stage's F, B and W run once.

`most_possible` is what a pipeline without any idle time would reach over the same side. `shares`
say where the time of our last step went: compute (the runtime's work for an action included), and
idle time by cause.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from claim import Figure, parser, report
from emulated import WIDTH, EmulatedStage, emulated_loss
from sides import Side, torch_sides
from torch_peer import CPU, PEERS, TorchPipeline
from traced import shares

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.ranks import run_ranks
from zeropp.costs import Costs
from zeropp.measure.links import measure_hop
from zeropp.measure.trace import Trace
from zeropp.runtime.pipeline import Pipeline
from zeropp.simulate import simulate

CLAIM = "ZeroPP's runtime against torch's, same stages and costs"

Triple = tuple[float, float, float]
TRIPLES: tuple[Triple, ...] = ((1, 1, 1), (1, 1, 0.7), (1, 1.3, 0.9))
EQUAL = TRIPLES[0]
REPEATS = 3


@dataclass(frozen=True)
class Setting:
    """Sizes, costs, and the seconds that stand for 1 in the costs."""

    P: int
    B: int
    triple: Triple
    unit_s: float
    chunks: tuple[int, ...] = (2,)

    def costs(self, V: int, latency: float = 0.0) -> Costs:
        """Of every stage, in seconds."""
        seconds = [self.unit_s * cost for cost in self.triple]
        return Costs.uniform(self.P, V, *seconds, latency=latency)


def settings(whole_grid: bool) -> list[Setting]:
    """What is run: the combinations that claims are made of and some of every other kind.

    A stage's action takes 25 ms or more: after a sleep, cold caches make it late by up to a
    millisecond where eight ranks share two cores.
    """
    chosen = [Setting(4, B, EQUAL, s) for B, s in ((4, 0.080), (8, 0.056), (16, 0.050))]
    chosen += [Setting(8, 8, EQUAL, 0.130, (2, 4)), Setting(8, 32, EQUAL, 0.060)]
    chosen += [Setting(8, 16, TRIPLES[1], 0.054), Setting(4, 8, TRIPLES[2], 0.054)]
    if not whole_grid:
        return chosen
    every = product((4, 8), (1, 2, 4), TRIPLES)
    grid = [Setting(P, k * P, triple, 0.060) for P, k, triple in every]
    done = {(setting.P, setting.B, setting.triple) for setting in chosen}
    return chosen + [s for s in grid if (s.P, s.B, s.triple) not in done]


def sides(setting: Setting) -> list[Side]:
    """Every schedule that has these sizes."""
    ours = [Side("zeropp", V, seam) for V in setting.chunks for seam in ("carry", "drain")]
    return ours + torch_sides(setting.P, setting.B, setting.chunks)


class Running:
    """One side on this rank."""

    def __init__(self, setting: Setting, side: Side, latency: float) -> None:
        costs, self._count = setting.costs(side.V), setting.B
        times = zip(costs.forward, costs.backward, costs.weight, strict=True)
        blocks = [EmulatedStage(*stage, first=s == 0) for s, stage in enumerate(times)]
        batch = torch.zeros(setting.B, WIDTH)
        self.simulated_s = 0.0
        self._pipe: Pipeline | None = None
        self._trace = Trace(CPU)
        if side.ours:
            known = setting.costs(side.V, latency)  # as `zeropp profile` measures it
            plan = side.plan(setting.P, setting.B, known)
            self._pipe = pipe = Pipeline(blocks, emulated_loss, plan, device=CPU)
            self._stages = [blocks[s] for s in plan.placement.stages_of(pipe.rank)]
            self._step: Callable[[], object] = lambda: pipe.step((batch, batch), trace=self._trace)
            self.simulated_s = simulate(pipe.program, known).makespan
        else:
            peer = TorchPipeline(PEERS[side.name], blocks, emulated_loss, setting.B)
            self._stages = [stage for stage in blocks if stage in peer.modules]
            self._step = lambda: peer.step(batch, batch)

    def warm(self) -> None:
        """A step whose stages take no time."""
        for stage in self._stages:
            stage.hurry(True)
        self._step()
        for stage in self._stages:
            stage.hurry(False)
            stage.take_counts()

    def seconds(self) -> float:
        """Of a step, from when all ranks begin until all have ended."""
        self._trace = Trace(CPU)
        dist.barrier()
        start = time.perf_counter()
        self._step()
        dist.barrier()
        taken = time.perf_counter() - start
        for stage in self._stages:
            if (counts := stage.take_counts()) != (self._count,) * 3:
                raise AssertionError(f"F, B and W ended {counts} times, not {self._count} each")
        return taken

    def shares(self) -> dict[str, float]:
        """Where the time of the latest step went, with our runtime; collective."""
        return {} if self._pipe is None else shares(self._pipe, self._trace)

    def close(self) -> None:
        """Free its process groups."""
        if self._pipe is not None:
            self._pipe.close()


# seconds of each repeat; simulated, and where the last one's time went, for ours
Measured = tuple[list[float], float, dict[str, float]]


def run_settings(chosen: list[Setting]) -> list[list[Measured]]:
    """On one rank: for each setting, every side's seconds."""
    torch.manual_seed(0)
    latency = sum(measure_hop(0, dist.get_world_size() - 1, 4 * WIDTH, CPU))
    found = []
    for setting in chosen:
        running = [Running(setting, side, latency) for side in sides(setting)]
        for one in running:
            one.warm()
        rounds = [[one.seconds() for one in running] for _ in range(REPEATS)]
        taken = [list(times) for times in zip(*rounds, strict=True)]
        pairs = zip(taken, running, strict=True)
        found.append([(times, one.simulated_s, one.shares()) for times, one in pairs])
        for one in running:
            one.close()
    return found


@dataclass(frozen=True)
class Result:
    """What one side of a setting took, in seconds of each repeat."""

    setting: Setting
    side: Side
    taken: list[float]
    simulated: float
    shares: dict[str, float]

    def throughput_over(self, other: "Result") -> list[float]:
        """Pair by pair."""
        return [theirs / own for own, theirs in zip(self.taken, other.taken, strict=True)]


def measure(chosen: list[Setting]) -> list[Result]:
    """Every side of every setting."""
    results = []
    for P in sorted({setting.P for setting in chosen}):
        own = [setting for setting in chosen if setting.P == P]
        for setting, found in zip(
            own, run_ranks(P, run_settings, own, timeout=1700)[0], strict=True
        ):
            pairs = zip(sides(setting), found, strict=True)
            results += [Result(setting, side, *measured) for side, measured in pairs]
    return results


def rows(results: list[Result]) -> Iterator[dict[str, Any]]:
    """One for each side: its time, and the throughput over its of the carried order."""
    for result in results:
        setting, side = result.setting, result.side
        carried = Side("zeropp", setting.chunks[0], "carry")
        ratios = _of(results, setting, carried).throughput_over(result)
        row: dict[str, Any] = {"P": setting.P, "B": setting.B, "costs": setting.triple}
        row |= {"schedule": side.title, "V": side.V, "step_s": round(median(result.taken), 3)}
        row |= {f"carry_V{carried.V}_over_it": round(median(ratios), 3)}
        row |= {"spread": f"{min(ratios):.3f} to {max(ratios):.3f}"}
        work = setting.B * sum(setting.triple) * setting.unit_s
        row |= {"most_possible": round(median(result.taken) / work, 3)}
        if result.simulated:
            row |= {"over_simulated": round(median(result.taken) / result.simulated, 4)}
            row |= {"shares": result.shares}
        yield row


def _of(results: list[Result], setting: Setting, side: Side) -> Result:
    return next(r for r in results if r.setting == setting and r.side == side)


def _best_of_torch(results: list[Result], setting: Setting, *, split: bool = True) -> Result:
    fused = ("1F1B", "Interleaved1F1B", "LoopedBFS")
    found = [r for r in results if r.setting == setting and not r.side.ours]
    found = [r for r in found if split or r.side.name in fused]
    return min(found, key=lambda result: median(result.taken))


def figures(results: list[Result]) -> Iterator[Figure]:
    """The claims."""
    few, many = (
        next(r.setting for r in results if (r.setting.P, r.setting.B, r.setting.triple) == key)
        for key in ((8, 8, EQUAL), (8, 32, EQUAL))
    )
    best, fused = (_best_of_torch(results, many, split=split) for split in (True, False))
    pairs = (
        (f"P=8 B=32 V=2 over torch's best, {best.side.name}", many, 2, best, 1.08),
        (f"P=8 B=32 V=2 over torch's best fused, {fused.side.name}", many, 2, fused, 1.08),
        ("P=8 B=8 V=4 over torch's 1F1B", few, 4, _of(results, few, Side("1F1B", 1)), 1.68),
        (
            "P=8 B=8 V=2 over torch's LoopedBFS",
            few,
            2,
            _of(results, few, Side("LoopedBFS", 2)),
            1.2,
        ),
    )
    for name, setting, V, other, target in pairs:
        ratios = _of(results, setting, Side("zeropp", V, "carry")).throughput_over(other)
        yield Figure(name, median(ratios), target, "times", at_least=True)
    for P in (4, 8):
        worst = max(
            median(r.taken) / r.simulated for r in results if r.side.ours and r.setting.P == P
        )
        yield Figure(f"P={P}, ours over simulated, worst", worst, 1.03, "times")


def main() -> int:
    """Measure and report."""
    options = parser(CLAIM)
    options.add_argument("--all", action="store_true", help="the whole grid of P, B and costs")
    wanted = options.parse_args()
    results = measure(settings(wanted.all))
    return report(CLAIM, list(rows(results)), list(figures(results)), wanted)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())

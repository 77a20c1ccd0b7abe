"""ZeroPP's runtime against torch.distributed.pipelining's: the same stages, micro-batches and
costs, real processes and transfers, compute that sleeps.

Run: python benchmarks/peers.py [--json] [--all]; four and eight ranks, under twelve minutes on two
cores. `--all` runs the whole grid of P, B and costs, which takes longer.

Sides run in turn, step by step, so each ratio is of two steps that ran one after the other. Costs
are those of one micro-batch's F, B and W through a whole rank. Our orders are made for the costs
and the measured latency; torch's are fixed, and its first stage does not split its backward.

`most_possible` is what a pipeline without any idle time would reach over the same side. `shares`
say where the time of our last step went: compute, and idle time by cause.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from statistics import median

import torch
import torch.distributed as dist

from support.claim import Figure, Row, parser, report
from support.emulated import EmulatedBlock
from support.ranks import run_ranks
from support.sides import Side, seconds, shares, torch_sides, trace_of
from support.torch_runtime import CPU
from zeropp.costs import Costs
from zeropp.measure.links import measure_hop
from zeropp.measure.rehearsal import tiny_loss
from zeropp.runtime.pipeline import Pipeline
from zeropp.simulate import simulate

CLAIM = "ZeroPP's runtime against torch's, same stages and costs"

Triple = tuple[float, float, float]
TRIPLES: tuple[Triple, ...] = ((1, 1, 1), (1, 1, 0.7), (1, 1.3, 0.9))
EQUAL = TRIPLES[0]
FUSED = ("1F1B", "Interleaved1F1B", "LoopedBFS")
REPEATS, WIDTH = 3, 8


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
        taken = [self.unit_s * cost for cost in self.triple]
        return Costs.uniform(self.P, V, *taken, latency=latency)

    def sides(self) -> list[Side]:
        """Every schedule that has these sizes."""
        ours = [Side("zeropp", V, seam) for V in self.chunks for seam in ("carry", "drain")]
        ours += [Side("zeropp", self.chunks[0], "eager")]
        return ours + torch_sides(self.P, self.B, self.chunks)


FEW, MANY = Setting(8, 8, EQUAL, 0.130, (2, 4)), Setting(8, 32, EQUAL, 0.060)


def settings(whole_grid: bool) -> list[Setting]:
    """What is run: the combinations that claims are made of and some of every other kind.

    A stage's action takes 25 ms or more: cold caches make it late by up to a millisecond.
    """
    chosen = [Setting(4, B, EQUAL, s) for B, s in ((4, 0.080), (8, 0.056), (16, 0.050))]
    chosen += [FEW, MANY, Setting(8, 16, TRIPLES[1], 0.054), Setting(4, 8, TRIPLES[2], 0.054)]
    if not whole_grid:
        return chosen
    every = product((4, 8), (1, 2, 4), TRIPLES)
    grid = [Setting(P, k * P, triple, 0.060) for P, k, triple in every]
    done = {(setting.P, setting.B, setting.triple) for setting in chosen}
    return chosen + [s for s in grid if (s.P, s.B, s.triple) not in done]


@dataclass
class Result:
    """What one side of a setting took."""

    setting: Setting
    side: Side
    taken: list[float] = field(default_factory=list)  # seconds of each repeat
    simulated: float = 0.0  # seconds, of ours
    shares: dict[str, float] = field(default_factory=dict)  # of ours, in the last repeat

    def throughput_over(self, other: "Result") -> list[float]:
        """Pair by pair."""
        return [theirs / own for own, theirs in zip(self.taken, other.taken, strict=True)]


class Emulated:
    """One side on this rank, and its result."""

    def __init__(self, setting: Setting, side: Side, latency: float) -> None:
        self.result = Result(setting, side)
        costs = setting.costs(side.V, latency)  # as `zeropp profile` measures it
        times = zip(costs.forward, costs.backward, costs.weight, strict=True)
        blocks = [EmulatedBlock(stage, first=s == 0) for s, stage in enumerate(times)]
        plan = side.plan(setting.P, setting.B, costs)
        self._running = side.start(blocks, tiny_loss, plan)
        own = (m for module in self._running.modules for m in module.modules())
        self._spans = [span for m in own if isinstance(m, EmulatedBlock) for span in m.spans]
        self._batch = torch.zeros(setting.B, WIDTH), torch.zeros(setting.B, WIDTH)
        if isinstance(self._running, Pipeline):
            self.result.simulated = simulate(self._running.program, costs).makespan

    def warm(self) -> None:
        """A step whose blocks take no time."""
        taken = [span.seconds for span in self._spans]
        for span in self._spans:
            span.seconds = 0.0
        self._running.step(self._batch)
        for span, own in zip(self._spans, taken, strict=True):
            span.seconds, span.count = own, 0

    def measure(self) -> None:
        """One step."""
        B, self._trace = self.result.setting.B, trace_of(self._running)
        step = partial(self._running.step, self._batch, observer=self._trace)
        self.result.taken.append(seconds(step))
        for span in self._spans:
            if span.count != B * len(self.result.taken):
                raise AssertionError(f"an F, B or W did not end {B} times")

    def close(self) -> None:
        """See where the last step's time went, and free process groups; collective."""
        self.result.shares = shares(self._running, self._trace)
        self._running.close()


def run_settings(chosen: list[Setting]) -> list[Result]:
    """On one rank: every side of every setting."""
    torch.manual_seed(0)
    latency = sum(measure_hop(0, dist.get_world_size() - 1, 4 * WIDTH, CPU))
    found = []
    for setting in chosen:
        running = [Emulated(setting, side, latency) for side in setting.sides()]
        for one in running:
            one.warm()
        for _, one in product(range(REPEATS), running):
            one.measure()
        for one in running:
            one.close()
            found.append(one.result)
    return found


def rows(results: list[Result]) -> Iterator[Row]:
    """One for each side: its time, and the throughput over its of the carried order."""
    for result in results:
        setting, side = result.setting, result.side
        carried = Side("zeropp", setting.chunks[0], "carry")
        ratios = _of(results, setting, carried).throughput_over(result)
        step_s = median(result.taken)
        row: Row = {"P": setting.P, "B": setting.B, "costs": setting.triple}
        row |= {"schedule": side.title, "V": side.V, "step_s": round(step_s, 3)}
        row |= {f"carry_V{carried.V}_over_it": round(median(ratios), 3)}
        row |= {"spread": f"{min(ratios):.3f} to {max(ratios):.3f}"}
        work = setting.B * sum(setting.triple) * setting.unit_s
        row |= {"most_possible": round(step_s / work, 3)}
        if result.simulated:
            row |= {"over_simulated": round(step_s / result.simulated, 4), "shares": result.shares}
        yield row


def _of(results: list[Result], setting: Setting, side: Side) -> Result:
    return next(r for r in results if r.setting == setting and r.side == side)


def figures(results: list[Result]) -> Iterator[Figure]:
    """The claims."""
    theirs = [r for r in results if r.setting == MANY and not r.side.ours]
    best = min(theirs, key=lambda r: median(r.taken))
    fused = min((r for r in theirs if r.side.name in FUSED), key=lambda r: median(r.taken))
    for name, V, other, target in (
        (f"P=8 B=32 V=2 over torch's best, {best.side.name}", 2, best, 1.08),
        (f"P=8 B=32 V=2 over torch's best fused, {fused.side.name}", 2, fused, 1.08),
        ("P=8 B=8 V=4 over torch's 1F1B", 4, _of(results, FEW, Side("1F1B", 1)), 1.68),
        ("P=8 B=8 V=2 over torch's LoopedBFS", 2, _of(results, FEW, Side("LoopedBFS", 2)), 1.2),
    ):
        carried = _of(results, other.setting, Side("zeropp", V, "carry"))
        yield Figure(name, median(carried.throughput_over(other)), target, "times", at_least=True)
    for P in (4, 8):
        ours = [r for r in results if r.side.ours and r.setting.P == P]
        worst = max(median(r.taken) / r.simulated for r in ours)
        yield Figure(f"P={P}, ours over simulated, worst", worst, 1.03, "times")


def main() -> int:
    """Measure and report."""
    options = parser(CLAIM)
    options.add_argument("--all", action="store_true", help="the whole grid of P, B and costs")
    wanted = options.parse_args()
    results: list[Result] = []
    chosen = settings(wanted.all)
    for P in sorted({setting.P for setting in chosen}):
        own = [setting for setting in chosen if setting.P == P]
        results += run_ranks(P, run_settings, own, timeout=1700)[0]
    return report(CLAIM, list(rows(results)), list(figures(results)), wanted)


if __name__ == "__main__":
    sys.exit(main())

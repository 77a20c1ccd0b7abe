"""Peak memory by category of our runtime and torch.distributed.pipelining's, in the same order.

Run: python benchmarks/memory.py [--json]; four ranks with a small GPT, about three minutes.

Ours runs the very order of actions that torch's runtime was seen to run, over the same stages. What
counts is every tensor that a step makes, at the moment when most of its bytes are alive, on the
rank where that is most.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from claim import Figure, parser, report
from gpt_sides import Running, Task
from memory_log import CATEGORIES, MemoryLog
from sides import Side
from torch_peer import PEERS

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.ranks import run_ranks
from zeropp.ir import Action, Kind, Placement, Schedule, Shape
from zeropp.ir.model import GPTConfig
from zeropp.plan import Plan
from zeropp.runtime.observer import Phase

P = 4
TASK = Task(GPTConfig(vocab_size=256, seq_len=128, layers=8, hidden=128, heads=4), B=8, samples=2)
SIDES = (
    Side("1F1B", 1),
    Side("Interleaved1F1B", 2),
    Side("LoopedBFS", 2),
    Side("InterleavedZeroBubble", 2),
    Side("ZBVZeroBubble", 2),
    Side("DualPipeV", 2),
)

CLAIM = "Peak memory in the same order of actions"
Peak = dict[str, int]


@dataclass(frozen=True)
class GivenOrder(Plan):
    """A plan whose order is not generated."""

    given: Schedule | None = None

    @cached_property
    def compute(self) -> Schedule:
        """The order that was given."""
        if self.given is None:
            raise ValueError("an order must be given")
        return self.given


def logged(side: Side, plan: Plan | None) -> tuple[Peak, list[Action]]:
    """On one rank: the peak of the second step, and its actions."""
    running, log = Running(TASK, side, plan), MemoryLog()
    if running.torch_pipeline is not None:
        running.torch_pipeline.watch(log.mark)
    with log:
        for _ in range(2):
            running.forget_gradients()
            log.begin_step()
            running.step(_Laps(log))
        found = log.peak(running.gradients().values())
    running.close()
    return found, log.order


class _Laps:
    """Tells the log of our runtime's actions."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    def lap(self, action: Action, phase: Phase) -> None:
        """A phase of an action ends; all but W wait for what they need first."""
        if phase is Phase.COMPUTE:
            self._log.mark(None)
        elif phase is Phase.PARAMETERS or action.kind is Kind.W:
            self._log.mark(action)


def in_our_runtime(side: Side, orders: list[list[Action]]) -> Plan:
    """The plan that runs torch's order."""
    shape = Shape.VEE if PEERS[side.name].vee else Shape.LOOP
    actions = tuple(map(tuple, orders))
    schedule = Schedule(side.name, Placement(shape, P, side.V), (TASK.B,), actions)
    return GivenOrder(P, side.V, TASK.B, given=schedule)


def compare(side: Side) -> tuple[Peak, Peak]:
    """Ours and torch's, each of its fullest rank."""
    theirs = run_ranks(P, logged, side, None)
    plan = in_our_runtime(side, [order for _, order in theirs])
    ours = run_ranks(P, logged, Side("zeropp", side.V), plan)
    if [order for _, order in ours] != [order for _, order in theirs]:
        raise AssertionError(f"{side.title}: the orders differ")
    fullest = [max((peak for peak, _ in found), key=_total) for found in (ours, theirs)]
    return fullest[0], fullest[1]


def _total(peak: Peak) -> int:
    return sum(peak.values())


def rows(found: dict[Side, tuple[Peak, Peak]]) -> Iterator[dict[str, Any]]:
    """Two for each order."""
    for side, peaks in found.items():
        for runtime, peak in zip(("ours", "torch"), peaks, strict=True):
            row: dict[str, Any] = {"order": side.name, "V": side.V, "runtime": runtime}
            row |= {f"{name}, MiB": round(peak[name] / 2**20, 2) for name in CATEGORIES}
            yield row | {"peak, MiB": round(_total(peak) / 2**20, 2)}


def main() -> int:
    """Measure and report."""
    wanted = parser(CLAIM).parse_args()
    found = {side: compare(side) for side in SIDES}
    figures = [
        Figure(f"{side.name}: our peak over torch's", _total(ours) / _total(theirs), 1.0, "times")
        for side, (ours, theirs) in found.items()
    ]
    return report(CLAIM, list(rows(found)), figures, wanted)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())

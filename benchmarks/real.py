"""A real GPT over two ranks, one thread each: our runtime against torch.distributed.pipelining's.

Run: python benchmarks/real.py [--json]; about five minutes on two cores.

Weights, batch, cut into stages, loss and gradients are equal, which is checked against plain
PyTorch. The carried order follows the measured times, as `zeropp train` lets it. Sides run in turn,
step by step; ratios are of two steps of the same round. Peak memory is read in fresh processes
whose allocator returns every freed tensor, above what the process held with its weights.
"""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
import torch.distributed as dist

from claim import Figure, parser, report
from gpt_sides import Running, Task, require_equal
from resident import ALLOCATOR, Peak
from sides import Side, torch_sides
from torch_peer import PEERS

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.ranks import run_ranks
from zeropp.models import GPTConfig

CLAIM = "A real GPT over two ranks, against torch's runtime"

P, ROUNDS = 2, 30
TASK = Task(GPTConfig(vocab_size=256, seq_len=128, layers=8, hidden=256, heads=4), B=4, samples=2)
OURS = Side("zeropp", 2, "carry")
SIDES = [
    OURS,
    *(Side("zeropp", V, "carry") for V in (1, 4)),
    Side("zeropp", 2, "drain"),
    *torch_sides(P, TASK.B, (2, 4)),
]


def run_sides() -> list[list[float]]:
    """On one rank: every side's seconds, round by round, after its gradients were checked."""
    loss, gradients = TASK.plain_step()
    running = [Running(TASK, side) for side in SIDES]
    for one in running:
        one.step()  # buffers, and torch's inference of shapes
        if one.side.seam == "carry":
            one.adapt(3)
        require_equal(one, loss, gradients)
    rounds = [[_seconds(one) for one in running] for _ in range(ROUNDS)]
    for one in running:
        one.close()
    return [list(taken) for taken in zip(*rounds, strict=True)]


def _seconds(running: Running) -> float:
    running.forget_gradients()
    dist.barrier()
    start = time.perf_counter()
    running.step()
    dist.barrier()
    return time.perf_counter() - start


def peak_of(side: Side) -> float:
    """On one rank: the most MiB of three steps above what the process held with its weights.

    What the first step leaves, such as torch's buffers for every micro-batch, counts.
    """
    running = Running(TASK, side)
    torch.ones(1, requires_grad=True).sum().backward()  # autograd's own first needs are met
    with Peak() as peak:
        for _ in range(3):
            running.forget_gradients()
            running.step()
    running.close()
    return peak.most


def main() -> int:
    """Measure and report."""
    wanted = parser(CLAIM).parse_args()
    taken = run_ranks(P, run_sides, timeout=500)[0]
    os.environ.update(ALLOCATOR)  # the ranks that start from here on have it
    peaks = [max(run_ranks(P, peak_of, side)) for side in SIDES]
    found = dict(zip(SIDES, zip(taken, peaks, strict=True), strict=True))
    return report(CLAIM, list(rows(found)), list(figures(found)), wanted)


Found = dict[Side, tuple[list[float], float]]  # seconds by round; MiB


def _ratios(found: Found, other: Side) -> list[float]:
    return [theirs / own for own, theirs in zip(found[OURS][0], found[other][0], strict=True)]


def rows(found: Found) -> Iterator[dict[str, Any]]:
    """One for each side."""
    for side, (taken, peak) in found.items():
        low, middle, high = quantiles(_ratios(found, side), n=4)
        row: dict[str, Any] = {"schedule": side.title, "V": side.V}
        row |= {"tokens_per_s": round(TASK.tokens / median(taken)), "peak_MiB": round(peak, 1)}
        row |= {"carry_V2_over_it": round(middle, 3)}
        yield row | {"quartiles": f"{low:.3f} to {high:.3f}"}


def figures(found: Found) -> Iterator[Figure]:
    """The claims: against the fastest of all, and of those whose stages go round, as ours."""
    theirs = [side for side in SIDES if not side.ours]
    loops = [side for side in theirs if not PEERS[side.name].vee]
    for kind, sides in (("", theirs), (" that goes round", loops)):
        best = min(sides, key=lambda side: median(found[side][0]))
        name = f"torch's best{kind}, {best.name} V={best.V}"
        speed = median(_ratios(found, best))
        yield Figure(f"tokens/s over {name}", speed, 1.05, "times", at_least=True)
        yield Figure(f"peak memory over {name}", found[OURS][1] / found[best][1], 1.0, "times")


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())

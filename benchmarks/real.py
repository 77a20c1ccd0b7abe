"""A real GPT over two ranks, one thread each: our runtime against torch.distributed.pipelining's.

Run: python benchmarks/real.py [--json]; about seven minutes on two cores.

Weights, batch, cut into stages, loss and gradients are equal, which is checked against plain
PyTorch. The carried order follows the measured times, as `zeropp train` lets it. Sides run in turn,
two steps each, of which the second is timed: a run repeats one order, and the first step after
another order's still takes its memory from the system anew. Ratios are of the same round.
`most_possible` is what a pipeline without
any idle time, or any cost of its own, would reach over the same side: each rank's half of the model
by itself, in plain PyTorch, both at once. Peak memory is read in fresh processes
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
from gpt_sides import Alone, Running, Task, require_equal
from resident import ALLOCATOR, Peak
from sides import Side, torch_sides
from torch_peer import CPU, PEERS
from traced import shares

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.ranks import run_ranks
from zeropp.models import GPTConfig
from zeropp.runtime.trace import Trace

CLAIM = "A real GPT over two ranks, against torch's runtime"

P, ROUNDS = 2, 15
CONFIG = GPTConfig(vocab_size=256, seq_len=128, layers=8, hidden=256, heads=4)
TASKS = tuple(Task(CONFIG, B, samples=2) for B in (P, 2 * P))
Found = dict[Side, tuple[list[float], float]]  # seconds by round; MiB


def sides(task: Task) -> list[Side]:
    """Our orders, of torch's runtime all, and two of torch's orders in our runtime."""
    ours = [Side("zeropp", V, "carry") for V in (1, 2, 4)] + [Side("zeropp", 2, "drain")]
    vees = [Side("zb-v", 2, slots=2 * P + 1), Side("dualpipe-v", 2)]
    return ours + vees[: 1 if task.B < 2 * P else 2] + torch_sides(P, task.B, (2, 4))


def run_sides(task: Task) -> tuple[list[list[float]], list[dict[str, float]]]:
    """On one rank: every side's seconds, round by round, after its gradients were checked, and last
    those of the rank's half of the model alone; and where the time of a step of ours goes.
    """
    loss, gradients = task.plain_step()
    running = [Running(task, side) for side in sides(task)]
    for one in running:
        one.step()  # buffers, and torch's inference of shapes
        if one.side.follows_times:
            one.adapt(3)
        require_equal(one, loss, gradients)
    alone = Alone(task)
    alone.step()
    rounds = [[_seconds(one) for one in (*running, alone)] for _ in range(ROUNDS)]
    where = [_shares(one) for one in running]
    for one in running:
        one.close()
    return [list(taken) for taken in zip(*rounds, strict=True)], where


def _shares(running: Running) -> dict[str, float]:
    if running.pipeline is None:
        return {}
    running.step()
    trace = Trace(CPU)
    running.step(trace)
    return shares(running.pipeline, trace)


def _seconds(running: Running | Alone) -> float:
    running.forget_gradients()
    running.step()
    running.forget_gradients()
    dist.barrier()
    start = time.perf_counter()
    running.step()
    dist.barrier()
    return time.perf_counter() - start


def peak_of(task: Task, side: Side) -> float:
    """On one rank: the most MiB of three steps above what the process held with its weights.

    What the first step leaves, such as torch's buffers for every micro-batch, counts.
    """
    running = Running(task, side)
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
    times = [run_ranks(P, run_sides, task, timeout=500)[0] for task in TASKS]
    os.environ.update(ALLOCATOR)  # the ranks that start from here on have it
    listed: list[dict[str, Any]] = []
    claims: list[Figure] = []
    for task, ((*taken, alone), where) in zip(TASKS, times, strict=True):
        peaks = [max(run_ranks(P, peak_of, task, side)) for side in sides(task)]
        found = dict(zip(sides(task), zip(taken, peaks, strict=True), strict=True))
        for line, split_up in zip(rows(task, found, alone), where, strict=True):
            listed.append(line | {"shares": split_up})
        claims += figures(task, found)
    return report(CLAIM, listed, claims, wanted)


def rows(task: Task, found: Found, alone: list[float]) -> Iterator[dict[str, Any]]:
    """One for each side."""
    own = _fastest(found, ours=True)
    for side, (taken, peak) in found.items():
        ratios = _ratios(found, own, side)
        low, middle, high = quantiles(ratios, n=4)
        row: dict[str, Any] = {"B": task.B, "schedule": side.title, "V": side.V}
        row |= {"tokens_per_s": round(task.tokens / median(taken)), "peak_MiB": round(peak, 1)}
        row |= {"our_best_over_it": round(middle, 3), "quartiles": f"{low:.3f} to {high:.3f}"}
        possible = median(own / least for own, least in zip(taken, alone, strict=True))
        yield row | {"most_possible": round(possible, 3)}


def figures(task: Task, found: Found) -> Iterator[Figure]:
    """Our fastest against the fastest of torch's, and of those of torch's whose stages go round."""
    own = _fastest(found, ours=True)
    for kind, loops in (("", False), (" that goes round", True)):
        best = _fastest(found, ours=False, loops=loops)
        name = (
            f"B={task.B} our {own.title} V={own.V} over torch's best{kind}, {best.name} V={best.V}"
        )
        speed = median(_ratios(found, own, best))
        yield Figure(f"{name}: tokens/s", speed, 1.05, "times", at_least=True)
        yield Figure(f"{name}: peak memory", found[own][1] / found[best][1], 1.0, "times")


def _fastest(found: Found, *, ours: bool, loops: bool = False) -> Side:
    of_either = [side for side in found if side.ours == ours]
    wanted = [side for side in of_either if not (loops and PEERS[side.name].vee)]
    return min(wanted, key=lambda side: median(found[side][0]))


def _ratios(found: Found, own: Side, other: Side) -> list[float]:
    return [b / a for a, b in zip(found[own][0], found[other][0], strict=True)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())

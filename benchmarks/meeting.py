"""What the meeting before a step costs beyond the all-reduce of the tokens that it replaces.

Run: python benchmarks/meeting.py [--json]; four ranks, half a minute on two cores.
"""

import time
from statistics import median

import torch
import torch.distributed as dist

from support.claim import Figure, Row, run
from support.ranks import run_ranks
from zeropp.runtime.agreement import Agreement
from zeropp.runtime.grid import make_mesh
from zeropp.runtime.inputs import microbatches_of
from zeropp.runtime.loss import count_valid

CLAIM = "Refusals reach all ranks at no round trip"
RANKS, ROUNDS = 4, 1500
KIB = 2**10


def extra(size: int) -> float:
    """Seconds more, the median over paired rounds, with a batch of `size` bytes in all."""
    mesh = make_mesh(RANKS)
    agreement = Agreement(mesh, torch.device("cpu"), count_valid)
    tokens = torch.ones(8, size // 8 // 8 // 2, dtype=torch.int64)
    parts = microbatches_of((tokens, tokens), 8)
    total, pairs = torch.zeros((), dtype=torch.int64), []
    for _ in range(ROUNDS):
        dist.barrier()
        start = time.perf_counter()
        for part in parts:
            total = total + count_valid(part.targets)
        dist.all_reduce(total)
        between = time.perf_counter()
        dist.barrier()
        begin = time.perf_counter()
        agreement.meet(lambda: parts, "step")
        pairs.append(time.perf_counter() - begin - (between - start))
    return median(pairs)


def measure() -> tuple[list[Row], list[Figure]]:
    """By size of batch."""
    found = {size: max(run_ranks(RANKS, extra, size)) * 1e6 for size in (64 * KIB, 1088 * KIB)}
    small, large = found.values()
    figures = [
        Figure("64 KiB", small, 200, "us"),
        Figure("each further MiB", large - small, 500, "us"),
    ]
    return [{"KiB": size / KIB, "us": cost} for size, cost in found.items()], figures


if __name__ == "__main__":
    run(CLAIM, measure)

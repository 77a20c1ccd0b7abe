"""Memory of gathered parameters and unreduced gradients: flat over the number of micro-batches, as
the unit and `max_resident` bound it, and as simulated.

Run: python benchmarks/resident.py [--json]; four ranks (P=2, D=2, V=3), about five minutes.

Stages are one linear layer of 8 MiB whose F, B and W are made to last; activations are a few KiB.
What the buffers of one all-gather and one reduce-scatter hold is measured first; gloo has some of
its own beside FSDP2's. What the process holds is read all the time, with an allocator that returns
freed memory.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from claim import Figure, parser, report

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from support.ranks import run_ranks
from zeropp.costs import Costs
from zeropp.measure.rehearsal import EmulatedCompute
from zeropp.plan import Plan
from zeropp.runtime.pipeline import Pipeline
from zeropp.simulate import Category, simulate

CLAIM = "Gathered parameters and gradients follow U and max_resident, not B"

WIDTH = 1448  # 8 MiB of fp32
STAGE_MIB = WIDTH**2 * 4 / 2**20
ACTION_S = 0.012
P, V, D = 2, 3, 2
BATCHES = (8, 32, 128)
POLICIES = ((4, 1), (4, 2), (8, 1))  # U, max_resident
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


class Peak:
    """The most memory of this process while it is open, in MiB above that at the start."""

    def __init__(self) -> None:
        self.most = 0.0
        self._start = resident()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Peak":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._closed.wait(5e-4):
            self.most = max(self.most, resident() - self._start)


def resident() -> float:
    """MiB of this process in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def loss(y: Tensor, targets: Tensor) -> Tensor:
    """Anything."""
    return (y - targets).pow(2).sum()


def costs() -> Costs:
    """Equal stages."""
    times = (ACTION_S,) * (P * V)
    return Costs(times, times, times)


class Collective(NamedTuple):
    """MiB that a collective of one stage needs beside its result, and its seconds."""

    mib: float
    seconds: float


def collectives() -> tuple[Collective, Collective]:
    """An all-gather and a reduce-scatter, while every rank does the same."""
    group = dist.new_subgroups(D)[0]
    whole, part = torch.ones(WIDTH * WIDTH), torch.ones(WIDTH * WIDTH // D)
    return (
        _collective(lambda: dist.all_gather_into_tensor(whole, part, group)),
        _collective(lambda: dist.reduce_scatter_tensor(part, whole, group=group)),
    )


def _collective(run: Callable[[], object]) -> Collective:
    found = []
    for _ in range(7):
        dist.barrier()
        start = time.perf_counter()
        with Peak() as peak:
            run()
        found.append(Collective(peak.most, time.perf_counter() - start))
    return Collective(max(c.mib for c in found), median(c.seconds for c in found))


def measured(plans: list[Plan]) -> tuple[tuple[Collective, Collective], list[float]]:
    """What collectives need; and for each plan, this rank's peak above what it holds between
    steps; in MiB.
    """
    own = collectives()
    found = []
    for plan in plans:
        blocks: list[nn.Module] = [nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(P * V)]
        pipe = Pipeline(blocks, loss, plan)
        batch, emulated = torch.zeros(plan.num_microbatches, WIDTH), EmulatedCompute(costs())
        pipe.step((batch, batch), trace=emulated)  # sharded gradients exist from here on
        with Peak() as peak:
            pipe.step((batch, batch), trace=emulated)
        found.append(peak.most)
        pipe.close()
    return own, found


def simulated(plan: Plan, gathering: Collective, reducing: Collective) -> list[float]:
    """The same of every pipeline rank, by simulation, in MiB."""
    known = replace(
        costs(),
        gather=gathering.seconds,
        reduce=reducing.seconds,
        gathered=STAGE_MIB,
        gradients=STAGE_MIB,
        gather_staging=STAGE_MIB + gathering.mib,  # FSDP2's flat output, and gloo's
        reduce_staging=STAGE_MIB + STAGE_MIB / D + reducing.mib,  # input, shard, gloo
        until_backward=0.0,
        until_weight=0.0,
    )
    program = plan.lower(plan.compute, sharded=True)
    made = simulate(program, known)
    kept = (Category.PARAMETERS, Category.OPTIMIZER)
    return [memory.peak - sum(memory.at_peak[c] for c in kept) for memory in made.memory]


def plans() -> list[Plan]:
    """Every policy with every batch."""
    return [
        Plan(P, V, B, "zeropp", U, seam, dp_shard=D, max_resident=resident_stages)
        for seam, (U, resident_stages) in product(("drain", "carry"), POLICIES)
        for B in BATCHES
    ]


def main() -> int:
    """Measure and report."""
    wanted = parser(CLAIM).parse_args()
    every = plans()
    ranks = run_ranks(P * D, measured, every, timeout=900)
    own, by_rank = ranks[0][0], [found for _, found in ranks]
    rows: list[dict[str, Any]] = []
    peaks: dict[tuple[str | None, int | None, int], list[float]] = {}
    for name, one in zip(("all-gather", "reduce-scatter"), own, strict=True):
        rows.append({"gloo": name, "MiB": round(one.mib, 1), "ms": round(one.seconds * 1e3, 1)})
    off = 0.0
    for index, plan in enumerate(every):
        predicted = simulated(plan, *own)
        real = [max(by_rank[p * D + d][index] for d in range(D)) for p in range(P)]
        off = max(off, *(abs(r / s - 1) for r, s in zip(real, predicted, strict=True)))
        peaks.setdefault((plan.seam, plan.unit_size, plan.max_resident), []).append(max(real))
        row = {"seam": plan.seam, "U": plan.unit_size, "max_resident": plan.max_resident}
        row |= {"B": plan.num_microbatches}
        row |= {"measured_MiB": " ".join(f"{value:.1f}" for value in real)}
        rows.append(row | {"simulated_MiB": " ".join(f"{value:.1f}" for value in predicted)})
    growth = max(max(values) / values[0] for values in peaks.values())
    figures = [
        Figure("peak over that of B=8, worst policy", growth, 1.05, "times"),
        Figure("measured against simulated, worst rank", off * 100, 10.0),
    ]
    return report(CLAIM, rows, figures, wanted)


if __name__ == "__main__":
    if not os.environ.keys() >= ALLOCATOR.keys():
        command = [sys.executable, *sys.argv]
        sys.exit(subprocess.run(command, env=os.environ | ALLOCATOR, check=False).returncode)
    torch.set_num_threads(1)
    sys.exit(main())

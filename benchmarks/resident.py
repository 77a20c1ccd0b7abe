"""Memory of gathered parameters and unreduced gradients: flat over the number of micro-batches, as
the unit and `max_resident` bound it, and as simulated.

Run: python benchmarks/resident.py [--json]; four ranks (P=2, D=2, V=3), about five minutes.

Stages are one linear layer of 8 MiB whose F, B and W are made to last; activations are a few KiB.
What gloo's buffers of one all-gather and one reduce-scatter hold is measured first.
"""

import os
from functools import partial
from itertools import product
from statistics import median
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from support.claim import Figure, Row, run
from support.memory import ALLOCATOR, grown
from support.ranks import run_ranks
from support.sides import seconds
from zeropp.build import pipeline, program_of
from zeropp.costs import Costs
from zeropp.measure.rehearsal import EmulatedCompute, tiny_loss
from zeropp.plan import Plan
from zeropp.simulate import Category, simulate

CLAIM = "Gathered parameters and gradients follow U and max_resident, not B"

WIDTH = 1448  # 8 MiB of fp32
STAGE_MIB = WIDTH**2 * 4 / 2**20
P, V, D = 2, 3, 2
ACTION_S = 0.012
COSTS = Costs.uniform(P, V, *(V * ACTION_S,) * 3)
BATCHES = (8, 32, 128)
POLICIES = ((4, 1), (4, 2), (8, 1))  # U, max_resident


class Collective(NamedTuple):
    """MiB that a collective of one stage needs beside its result, and its seconds."""

    mib: float
    seconds: float


def collectives() -> list[Collective]:
    """An all-gather and a reduce-scatter, while every rank does the same."""
    group, found = dist.new_subgroups(D)[0], []
    whole, part = torch.ones(WIDTH * WIDTH), torch.ones(WIDTH * WIDTH // D)
    for made in (
        partial(dist.all_gather_into_tensor, whole, part, group),
        partial(dist.reduce_scatter_tensor, part, whole, group=group),
    ):
        taken: list[float] = []
        most = max(grown(lambda: taken.append(seconds(made))) for _ in range(7))  # noqa: B023
        found.append(Collective(most, median(taken)))
    return found


def measured(plans: list[Plan]) -> tuple[list[Collective], list[float]]:
    """What collectives need; by plan, this rank's peak MiB above those between steps."""
    own, found = collectives(), []
    for plan in plans:
        blocks: list[nn.Module] = [nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(P * V)]
        pipe = pipeline(blocks, tiny_loss, plan)
        batch, emulated = torch.zeros(plan.num_microbatches, WIDTH), EmulatedCompute(COSTS)
        pipe.step((batch, batch), observer=emulated)  # sharded gradients exist from here on
        found.append(grown(partial(pipe.step, (batch, batch), observer=emulated)))
        pipe.close()
    return own, found


def simulated(plan: Plan, gathering: Collective, reducing: Collective) -> list[float]:
    """The same of every pipeline rank, by simulation, in MiB."""
    costs = Costs.uniform(
        P,
        V,
        *(V * ACTION_S,) * 3,
        gather=gathering.seconds,
        reduce=reducing.seconds,
        gathered=STAGE_MIB,
        gradients=STAGE_MIB,
        gather_workspace=STAGE_MIB + gathering.mib,  # FSDP2's flat output, and gloo's
        reduce_staging=STAGE_MIB + STAGE_MIB / D + reducing.mib,  # input, shard, gloo
        until_backward=0.0,
        until_weight=0.0,
    )
    made = simulate(program_of(plan), costs)
    kept = (Category.PARAMETERS, Category.OPTIMIZER)
    return [memory.peak - sum(memory.at_peak[c] for c in kept) for memory in made.memory]


def measure() -> tuple[list[Row], list[Figure]]:
    """Two rows for the collectives, one for each policy and number of micro-batches."""
    os.environ.update(ALLOCATOR)
    plans = [
        Plan(P, V, B, "zeropp", U, seam, dp_shard=D, max_resident=stages)
        for seam, (U, stages), B in product(("drain", "carry"), POLICIES, BATCHES)
    ]
    ranks = run_ranks(P * D, measured, plans, timeout=900)
    own, by_rank = ranks[0][0], [found for _, found in ranks]
    rows: list[Row] = [
        {"gloo": name, "MiB": round(one.mib, 1), "ms": round(one.seconds * 1e3, 1)}
        for name, one in zip(("all-gather", "reduce-scatter"), own, strict=True)
    ]
    off, peaks = 0.0, []
    for index, plan in enumerate(plans):
        predicted = simulated(plan, *own)
        real = [max(by_rank[p * D + d][index] for d in range(D)) for p in range(P)]
        off = max(off, *(abs(r / s - 1) for r, s in zip(real, predicted, strict=True)))
        peaks.append(max(real))
        row = {"seam": plan.seam, "U": plan.unit_size, "max_resident": plan.max_resident}
        row |= {"B": plan.num_microbatches, "measured_MiB": " ".join(f"{r:.1f}" for r in real)}
        rows.append(row | {"simulated_MiB": " ".join(f"{s:.1f}" for s in predicted)})
    growth = max(peak / peaks[i - i % len(BATCHES)] for i, peak in enumerate(peaks))
    return rows, [
        Figure("peak over that of B=8, worst policy", growth, 1.05, "times"),
        Figure("measured against simulated, worst rank", off * 100, 10.0),
    ]


if __name__ == "__main__":
    run(CLAIM, measure)

"""What every rank of the cluster runs: all sides at all link rates; rank 0 writes the rows."""

import json
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from cluster import cases
from cluster.cases import COPIES, KEPT_BYTES, MIB, ROWS, TIMES, WIDTH, Batch, D, Job, Mapping, V
from support.claim import Row
from support.emulated import EmulatedBlock
from support.hosts import bytes_sent
from support.memory import grown
from support.sides import Side, shares, trace_of
from zeropp.build import program_of
from zeropp.measure.rehearsal import tiny_loss
from zeropp.runtime.mesh import PP, REPLICATE, SHARD, gathered
from zeropp.runtime.pipeline import Pipeline


class Step(NamedTuple):
    """What one rank saw of a step: times of the machine's clock, MiB, bytes."""

    start: float
    end: float
    peak: float
    sent: int


def main(path: str, results: str) -> None:
    """Measure everything."""
    torch.set_num_threads(1)
    job: Job = pickle.loads(Path(path).read_bytes())
    dist.init_process_group("gloo", timeout=timedelta(seconds=300))
    rows, ranks = [], torch.arange(job.P * D)  # by host
    for mapping in Mapping:
        grid = ranks.view(-1, D) if mapping is Mapping.INSIDE else ranks.view(D, -1).t()
        mesh = DeviceMesh("cpu", grid.unsqueeze(1), mesh_dim_names=(PP, REPLICATE, SHARD))
        for batch in job.batches:
            for side in cases.sides(job.P, batch.size):
                for rate, found in measured(job, side, mapping, mesh, batch):
                    row = {"mapping": mapping, "B": batch.size, "rate": cases.rate_name(rate)}
                    rows.append(row | {"case": cases.case_name(side)} | found)
                    if dist.get_rank() == 0:
                        print(*row.values())
    if dist.get_rank() == 0:
        Path(results).write_text(json.dumps(rows), encoding="utf-8")
    dist.destroy_process_group()


def measured(
    job: Job, side: Side, mapping: Mapping, mesh: DeviceMesh, batch: Batch
) -> Iterator[tuple[float | None, Row]]:
    """What was measured at each rate, in the order made for it; warmed up without a limit."""
    limit(job, None)
    plan = cases.plan_of(side, mapping, job.P, batch.size, None)
    blocks = [EmulatedBlock(TIMES, i == 0, WIDTH, COPIES) for i in range(job.P * V)]
    running = side.start(blocks, tiny_loss, plan, mesh)
    data = torch.zeros(batch.size * ROWS, WIDTH)
    running.step((data, data))
    for rate in batch.rates:
        limit(job, rate)
        plan, steps = cases.plan_of(side, mapping, job.P, batch.size, rate), []
        if isinstance(running, Pipeline):
            running.follow(program_of(plan))
        for _ in range(batch.steps):
            trace = trace_of(running)
            steps.append(step_of(partial(running.step, (data, data), observer=trace)))
        where = {"shares": shares(running, trace), "predicted_s": cases.predicted_s(side, plan)}
        yield rate, summary(steps) | where
    running.close()


def limit(job: Job, rate: float | None) -> None:
    """Set the rate of all links while nothing is on them."""
    dist.barrier()
    if dist.get_rank() == 0:
        job.cluster.limit(rate)
    dist.barrier()


def step_of(step: Callable[[], object]) -> list[Step]:
    """One step, as each rank saw it."""
    times = []

    def timed() -> None:
        times.append(time.perf_counter())
        step()
        times.append(time.perf_counter())

    dist.barrier()
    sent, peak = bytes_sent(), grown(timed)
    dist.barrier()
    return gathered(Step(*times, peak, bytes_sent() - sent))


def summary(steps: list[list[Step]]) -> Row:
    """Of the measured steps, from the first rank's start to the last one's end."""
    spans = [max(s.end for s in ranks) - min(s.start for s in ranks) for ranks in steps]
    peaks = [max(s.peak for s in ranks) for ranks in steps]
    sent = [sum(s.sent for s in ranks) / D for ranks in steps]  # D ranks read a host's counter
    return {
        "step_s": round(median(spans), 4),
        "spread_s": round(max(spans) - min(spans), 4),
        "wire_MiB": round(median(sent) / MIB, 2),
        "peak_MiB": round(median(peaks) + KEPT_BYTES / MIB, 2),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])

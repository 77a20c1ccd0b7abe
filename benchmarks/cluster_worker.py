"""What every rank of the cluster runs: all cases at all link rates; rank 0 writes the rows."""

import json
import os
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from cluster_block import PARAMETER_BYTES
from cluster_cases import Batch, Case, D, Job, Mapping, V, cases, rate_name
from cluster_hosts import HOST, bytes_sent
from cluster_predict import predicted_s
from cluster_runners import Runner, make_runner
from zeropp.runtime.mesh import PP, REPLICATE, SHARD

MIB = 2**20
KEPT_BYTES = 2 * V * PARAMETER_BYTES / D  # shards of parameters and gradients, between steps


class Step(NamedTuple):
    """What one rank saw of a step: times of the machine's clock, bytes."""

    start: float
    end: float
    peak: int
    sent: int


def main(path: str) -> None:
    """Measure everything."""
    torch.set_num_threads(1)
    job = Job.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
    dist.init_process_group("gloo", timeout=timedelta(seconds=300))
    for mapping in job.mappings:
        mesh = make_mesh(mapping, job.pp_size)
        for batch in job.batches:
            for case in cases(job.pp_size, batch.size):
                for rate, row in measured(job, case, mesh, batch):
                    if dist.get_rank() == 0:
                        about = description(case, mapping, job.pp_size, batch.size, rate)
                        write(about | row, job.results)
    dist.barrier()
    dist.destroy_process_group()


def make_mesh(mapping: Mapping, pp_size: int) -> DeviceMesh:
    """The ranks by host, as the mapping lays them."""
    places: list[tuple[int, int] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(places, (int(os.environ[HOST]), int(os.environ["LOCAL_RANK"])))
    by_host = sorted(range(len(places)), key=lambda rank: places[rank] or (0, 0))
    ranks = torch.tensor(by_host)
    grid = ranks.view(pp_size, D) if mapping is Mapping.INSIDE else ranks.view(D, pp_size).t()
    shape = (pp_size, 1, D)
    return DeviceMesh("cpu", grid.reshape(shape), mesh_dim_names=(PP, REPLICATE, SHARD))


def measured(
    job: Job, case: Case, mesh: DeviceMesh, batch: Batch
) -> Iterator[tuple[float | None, dict[str, Any]]]:
    """What was measured at each rate; made and warmed up without a limit."""
    limit(job, None)
    runner = make_runner(case, mesh, batch.size)
    step_of(runner)
    for rate in batch.rates:
        limit(job, rate)
        steps = [step_of(runner) for _ in range(batch.steps)]
        idle = {cause: round(ratio, 3) for cause, ratio in runner.idle().items()}
        yield rate, summary(steps) | {"idle": idle}
    runner.close()


def description(
    case: Case, mapping: Mapping, pp_size: int, batch: int, rate: float | None
) -> dict[str, Any]:
    """What a row is about, and the step that a simulation expects."""
    return {
        "mapping": str(mapping),
        "B": batch,
        "rate": rate_name(rate),
        "case": str(case),
        "runtime": case.runtime,
        "schedule": case.schedule,
        "V": case.num_chunks,
        "shard": case.shard,
        "U": case.unit_size,
        "seam": case.seam,
        "predicted_s": predicted_s(case, mapping, pp_size, batch, rate),
    }


def limit(job: Job, rate: float | None) -> None:
    """Set the rate of all links while nothing is on them."""
    dist.barrier()
    if dist.get_rank() == 0:
        job.cluster.limit(rate)
    dist.barrier()


def step_of(runner: Runner) -> list[Step]:
    """One step, as each rank saw it."""
    runner.ready()
    dist.barrier()
    sent = bytes_sent()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak
    start = time.perf_counter()
    runner.step()
    end = time.perf_counter()
    peak = resident("VmHWM") - before
    dist.barrier()
    own = Step(start, end, peak, bytes_sent() - sent)
    every: list[Step | None] = [None] * dist.get_world_size()
    dist.all_gather_object(every, own)
    return [step for step in every if step is not None]


def summary(steps: list[list[Step]]) -> dict[str, Any]:
    """Of the measured steps, from the first rank's start to the last one's end."""
    spans = [max(s.end for s in ranks) - min(s.start for s in ranks) for ranks in steps]
    peaks = [max(s.peak for s in ranks) for ranks in steps]
    sent = [sum(s.sent for s in ranks) / D for ranks in steps]  # D ranks read a host's counter
    return {
        "step_s": round(median(spans), 4),
        "spread_s": round(max(spans) - min(spans), 4),
        "wire_MiB": round(median(sent) / MIB, 2),
        "peak_MiB": round((median(peaks) + KEPT_BYTES) / MIB, 2),
    }


def resident(name: str) -> int:
    """Bytes of this process in memory: now (VmRSS) or at most (VmHWM)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def write(row: dict[str, Any], path: str) -> None:
    """Add a row to the results."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])

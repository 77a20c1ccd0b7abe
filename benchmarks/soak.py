"""Long and varied use: 2,000 steps with flat memory and nothing leaked; 200 random pipelines.

Run: python benchmarks/soak.py [--json]; four ranks, about four minutes on two cores.
"""

import os
import random
import threading

import torch

from support.claim import Figure, Row, run
from support.exactness import Case, make, own_batch
from support.features import GPT, GPT_NO_BIAS  # the tests' small one
from support.memory import process_groups, resident
from support.ranks import run_ranks
from zeropp.generate import GENERATORS
from zeropp.plan import Plan
from zeropp.runtime.grid import make_mesh

CLAIM = "Long use is flat, varied use does not hang"

STEPS, SETTLED, RANDOM = 2_000, 200, 200
Resources = dict[str, float]


def resources() -> Resources:
    """Memory in MiB, open files, threads and process groups of this process."""
    return {
        "MiB": resident(),
        "files": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "groups": process_groups(),
    }


def many_steps() -> tuple[Resources, Resources]:
    """Resources after the first steps and after the last."""
    case = Case(GPT, Plan(2, 2, 4, "zeropp", 2, dp_shard=2, max_resident=1))
    pipe = make(case)
    optimizer = torch.optim.AdamW(pipe.parameters(), lr=1e-3)
    part = own_batch(case, pipe)
    for step in range(STEPS):
        if step == SETTLED:
            settled = resources()
        pipe.step(part)
        pipe.clip_grad_norm_(1.0)
        optimizer.step()
        optimizer.zero_grad()
    last = resources()
    pipe.close()
    return settled, last


def random_case(generator: random.Random) -> Case:
    """A small pipeline of four ranks with random sizes, schedule and policy."""
    name = generator.choice(sorted(GENERATORS))
    pp_size = generator.choice((1, 2, 4))
    allowed = GENERATORS[name].chunks
    chunks = generator.choice((1, 2) if allowed is None else sorted(allowed))
    microbatches = generator.randint(1, 6)
    unit = generator.randint(1, microbatches)
    plan = Plan(
        pp_size,
        chunks,
        microbatches,
        name,
        unit if "unit_size" in GENERATORS[name].options else None,
        dp_shard=4 // pp_size,
        shard=generator.choice(("unit", "step", "microbatch")),
        max_resident=generator.randint(1, 2),
        prefetch=generator.randint(0, 2),
        recompute=generator.choice(("none", "selective", "full")),
    )
    return Case(generator.choice((GPT, GPT_NO_BIAS)), plan)


def random_runs() -> tuple[int, Resources, Resources]:
    """How many random pipelines ran, and the resources before and after the later half of them."""
    generator = random.Random(7)
    meshes = {p: make_mesh(p, 1, 4 // p, torch.device("cpu")) for p in (1, 2, 4)}
    for number in range(RANDOM):
        if number == RANDOM // 2:
            half = resources()
        case = random_case(generator)
        pipe = make(case, meshes[case.plan.pp_size])
        pipe.step(own_batch(case, pipe))
        pipe.close()
    return number + 1, half, resources()


def measure() -> tuple[list[Row], list[Figure]]:
    """One rank's resources."""
    settled, last = run_ranks(4, many_steps, timeout=560)[0]
    ran, half, end = run_ranks(4, random_runs, timeout=560)[0]
    figures = [Figure(f"memory after {STEPS} steps", last["MiB"] / settled["MiB"], 1.02, "times")]
    figures += [Figure(f"random runs not finished, of {RANDOM}", RANDOM - ran, 0, "")]
    for name in ("files", "threads", "groups"):
        figures.append(Figure(f"more {name}, {STEPS} steps", last[name] - settled[name], 0, ""))
        figures.append(Figure(f"more {name}, random runs", end[name] - half[name], 0, ""))
    return [{"when": "steps"} | last, {"when": "random"} | end], figures


if __name__ == "__main__":
    run(CLAIM, measure)

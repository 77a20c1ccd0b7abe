"""What a checkpoint costs the training that goes on beside it, and one that training waits for.

Run: python benchmarks/saving.py [--json]; two ranks, four minutes, 4 GB of disk.
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from support.claim import Figure, Row, run
from support.ranks import run_ranks
from zeropp import Plan, checkpoint
from zeropp.build import pipeline
from zeropp.ir.model import SIZES
from zeropp.models import gpt_blocks, init_block
from zeropp.runtime.pipeline import Pipeline
from zeropp.train.gpt import token_loss

CLAIM = "Training goes on while a checkpoint is written"
PLAN = Plan(2, 2, 8)
EACH = 2  # checkpoints of either kind
BETWEEN = {"toy": 8, "gpt2-124m": 2}  # steps from one to the next


def made(size: str) -> tuple[Pipeline, torch.optim.Optimizer]:
    """The model over two ranks, with four stages."""
    shape = SIZES[size]
    with torch.device("meta"):
        blocks = gpt_blocks(shape)
    pipe = pipeline(blocks, token_loss, PLAN, init=lambda i, block: init_block(block, shape, i, 0))
    return pipe, torch.optim.AdamW(pipe.parameters(), lr=1e-4)


def seconds(size: str, folder: str) -> dict[str, list[float]]:
    """By kind: a step alone; the longest of those in which a checkpoint is begun and written, over
    that; how long the first of them waits, and by how much all of them are late; and how long one
    waits until it is written.
    """
    pipe, optimizer = made(size)
    saver = checkpoint.Saver(Path(folder), pipe, optimizer, checkpoint.Keep(1))
    tokens = torch.randint(SIZES[size].vocab_size, (16, 129))

    def step(save: Callable[[], None] | None = None) -> float:
        dist.barrier()
        begun = time.perf_counter()
        pipe.step((tokens[:, :-1], tokens[:, 1:]))
        optimizer.step()
        optimizer.zero_grad()
        if save is not None:
            saving = time.perf_counter()
            save()
            blocked.append(time.perf_counter() - saving)
        spent = torch.tensor(time.perf_counter() - begun)
        dist.all_reduce(spent, dist.ReduceOp.MAX)
        return float(spent)

    blocked: list[float] = []

    def beside(number: int) -> list[float]:
        steps = [step(partial(saver.begin, number))]
        return steps + [step() for _ in range(BETWEEN[size])]

    beside(0)  # makes the memory of the copy, which those that follow find
    found: dict[str, list[float]] = {
        kind: [] for kind in ("alone", "longest", "blocked", "delay", "waited")
    }
    for number in range(1, EACH + 1):
        saver.wait()
        found["alone"] += (alone := [step() for _ in range(BETWEEN[size])])
        usual = statistics.median(alone)
        steps = beside(number)
        found["longest"].append(max(steps) / usual)
        found["blocked"].append(blocked[-1])
        found["delay"].append(sum(steps) - usual * len(steps))
        saver.wait()
        path = Path(folder) / f"waited-{number}"
        step(partial(checkpoint.save, path, pipe, optimizer, 1))
        found["waited"].append(blocked[-1])
        dist.barrier()
        if dist.get_rank() == 0:
            shutil.rmtree(path)
    saver.close()
    pipe.close()
    return found


def measure() -> tuple[list[Row], list[Figure]]:
    """A row a model."""
    rows: list[Row] = []
    for size in BETWEEN:
        with tempfile.TemporaryDirectory() as folder:
            found = run_ranks(2, seconds, size, folder, timeout=900)[0]
        middle = {kind: statistics.median(values) for kind, values in found.items()}
        rows.append(
            {
                "model": size,
                "step s": middle["alone"],
                "longest step beside": middle["longest"],
                "step waits s": middle["blocked"],
                "delay of all s": middle["delay"],
                "delay of one that is waited for, s": middle["waited"],
            }
        )
    small, large = rows
    share = float(small["step waits s"]) / float(small["delay of one that is waited for, s"])
    return rows, [
        Figure("longest step of gpt2-124m, of a step", float(large["longest step beside"]), 1.1),
        Figure("the demo's step waits, of what it waits for a synchronous one", share, 0.25),
    ]


if __name__ == "__main__":
    run(CLAIM, measure)

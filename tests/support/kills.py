"""A run that is killed again and again, started again by the same command, and looked at after."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict_loader import load

from support.processes import alive, ranks_of
from zeropp.checkpoint.files import Reader, newest, read, steps_in

SAVE_EVERY = 5
OPTIONS = f"""--parallel.dp-shard 2 --run.sample 0 --run.keep-last 3 --run.eval-every 1000
    --run.save-every {SAVE_EVERY} --run.resume auto""".split()
SMALL = [
    *("--model.layers", "2", "--data.seq-len", "16", "--data.micro-batch-size", "1"),
    *("--parallel.num-chunks", "1", "--parallel.num-microbatches", "2"),
]
RANKS = 4
_LONGEST_S = 180.0


@dataclass(frozen=True)
class Kill:
    """One death: of whom, when, and what it cost.

    Attributes:
        whom: rank, ranks, launcher, or all of them.
        when: at a step, in a save, once it is renamed, or while starting.
        repeated: steps that had been written down and were made again.
        orphans: processes that were still there five seconds later.
    """

    whom: str
    when: str
    repeated: int
    orphans: int


@dataclass
class Run:
    """The command, its folder, and the processes of its present life."""

    cwd: Path
    steps: int
    options: Sequence[str] = ()  # besides those of every such run
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def folder(self) -> Path:
        return self.cwd / "runs" / "demo"

    def start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "zeropp.cli.main", "train", *OPTIONS, *self.options]
        command += ["--run.steps", str(self.steps), "--optim.schedule-steps", "400"]
        with (self.cwd / "output.txt").open("ab") as output:
            self.process = subprocess.Popen(command, cwd=self.cwd, stdout=output, stderr=output)
        return self.process

    def made(self) -> list[dict[str, Any]]:
        """What stands in metrics.jsonl, whole lines alone."""
        path = self.folder / "metrics.jsonl"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]

    def last(self) -> int:
        """The last step that was written down."""
        made = self.made()
        return made[-1]["step"] if made else 0

    def output(self) -> str:
        return (self.cwd / "output.txt").read_text(errors="replace")


def kill_often(run: Run, kills: int, seed: int = 0) -> list[Kill]:
    """Kill the run so often, at moments that `seed` draws, then let it end."""
    draw, steps, found = random.Random(seed), run.steps, []
    for number in range(kills):
        run.start()
        whom = draw.choice(("rank", "ranks", "launcher", "all"))
        when = draw.choice(("step", "step", "saving", "renamed", "starting"))
        reached = run.last() if when == "starting" else steps * (number + 1) // (kills + 1)
        _await_moment(run, when, reached, draw)
        found.append(_kill(run, whom, when, draw))
    process = run.start()
    if process.wait(_LONGEST_S) != 0:
        raise AssertionError(run.output()[-2000:])
    return found


def _await_moment(run: Run, when: str, reached: int, draw: random.Random) -> None:
    if when == "starting":
        time.sleep(draw.uniform(0.5, 6.0))
        return
    _await(run, lambda: run.last() >= reached)
    places = run.folder / "checkpoints"
    known = set(steps_in(places))
    if when == "saving":
        _await(run, lambda: any(p.name.count(".") == 2 for p in places.glob(".step-*")))
    elif when == "renamed":
        _await(run, lambda: bool(set(steps_in(places)) - known))
    time.sleep(draw.uniform(0, 0.05))


def _await(run: Run, happened: Callable[[], bool]) -> None:
    """Wait for it, or for the run's end, which comes first near the last step."""
    deadline = time.monotonic() + _LONGEST_S
    while not happened():
        if run.process is None or run.process.poll() is not None:
            return
        if time.monotonic() > deadline:
            raise AssertionError(run.output()[-2000:])
        time.sleep(0.002)


def _kill(run: Run, whom: str, when: str, draw: random.Random) -> Kill:
    process = run.process
    assert process is not None
    ranks = ranks_of(process.pid) if process.poll() is None else []
    doomed = {
        "rank": ranks[-1:] if not ranks else [draw.choice(ranks)],
        "ranks": ranks,
        "launcher": [process.pid],
        "all": [process.pid, *ranks],
    }[whom]
    for pid in doomed or [process.pid]:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
    process.wait(60)
    seen = run.last()
    left, deadline = ranks, time.monotonic() + 5
    while left and time.monotonic() < deadline:
        left = [rank for rank in left if alive(rank)]
        time.sleep(0.02)
    found, broken = newest(run.folder / "checkpoints")
    assert not broken, broken
    at = 0 if found is None else read(found)[0].step
    return Kill(whom, when, max(0, seen - at), len(left))


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, parameters and the optimizer's."""
    _, metadata = read(path)
    state = {k: torch.empty(held.size, dtype=held.properties.dtype) for k, held in metadata.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that there is one process
        load(state, storage_reader=Reader(path), no_dist=True)
    return state


def differing(one: Path, other: Path) -> list[str]:
    """Tensors that are not the same in two checkpoints, bit by bit, or in one of them alone."""
    left, right = tensors_of(one), tensors_of(other)
    alike = {key for key in left.keys() & right.keys() if torch.equal(left[key], right[key])}
    return sorted((left.keys() | right.keys()) - alike)

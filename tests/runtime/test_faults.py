"""What users see when a rank fails: who, where, in which action; and nobody waits for ever."""

import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import HashStore

from support.processes import alive, free_port, ranks_of
from support.ranks import forking, run_ranks
from zeropp.ir.placement import Placement, Shape
from zeropp.runtime.watchdog import Watchdog

TIMEOUT_S, GRACE_S = 3.0, 4.0  # of the watchdog: all ranks end within their sum after a fault

RANK = """
import os, signal, sys, time
import torch, torch.distributed as dist
from torch import nn
from zeropp.plan import Plan
from zeropp.build import pipeline
from zeropp.runtime.pipeline import Pipeline
from zeropp.runtime.watchdog import Watchdog

class Block(nn.Module):
    def __init__(self, index):
        super().__init__()
        self.linear, self.index, self.calls = nn.Linear(4, 4), index, 0
    def forward(self, x):
        if x.is_meta:
            return self.linear(x)
        self.calls += 1
        if self.index == 1 and self.calls == 6:
            FAULT
        return self.linear(x)

torch.set_num_threads(1)
rank, address, world, moment = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
begin, left = Watchdog.begin, [int(moment.rpartition(" ")[2] or 0)]
def begin_or_die(self, what):
    if moment and getattr(what, "kind", "words") == moment.split()[0]:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    begin(self, what)
Watchdog.begin = begin_or_die
dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
plan = Plan(2, 1, 4, "zb-h1", dp_shard=world // 2)
loss = lambda y, t: (y - t).pow(2).sum()
pipe = pipeline([Block(0), Block(1)], loss, plan, timeout=3.0)
x = torch.ones(4, 4)
for step in range(3):
    pipe.step((x, x))
print("finished")
"""


def start(rank: int, address: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(folder / "rank.py"), str(rank), address, "2", ""],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def as_script(folder: Path, rank: str, *arguments: str) -> None:
    """In a forked process, what `start` runs in a new one; what it says goes to a file."""
    with (folder / rank).open("w") as said:
        os.dup2(said.fileno(), sys.stderr.fileno())
    sys.argv = [str(folder / "rank.py"), rank, *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")


def outcomes(
    ranks: list[subprocess.Popen[str]], limit: float
) -> list[subprocess.CompletedProcess[str]]:
    """What all ranks said, who must end within `limit` seconds."""
    deadline = time.monotonic() + limit
    done = []
    try:
        for rank in ranks:
            out, err = rank.communicate(timeout=max(0.1, deadline - time.monotonic()))
            done.append(subprocess.CompletedProcess(rank.args, rank.returncode, out, err))
    finally:
        for rank in ranks:
            rank.kill()
    return done


def run_with(fault: str, folder: Path, limit: float) -> list[subprocess.CompletedProcess[str]]:
    """Two ranks, the second of which has `fault` in its sixth forward (second step)."""
    (folder / "rank.py").write_text(RANK.replace("FAULT", fault))
    return outcomes([start(rank, f"file://{folder}/store", folder) for rank in range(2)], limit)


def test_without_a_fault_both_finish(tmp_path: Path) -> None:
    for rank in run_with("pass", tmp_path, 60):
        assert rank.returncode == 0, rank.stderr
        assert rank.stdout == "finished\n"


THREADS = """
import atexit
from pathlib import Path
from typing import Any

def threads():
    return [task.read_text().strip() for task in Path("/proc/self/task").glob("*/comm")]

atexit.register(lambda: print(sum("gloo" in name for name in threads())))
"""


@pytest.mark.parametrize("ends", ["", "dist.destroy_process_group()\n"])
def test_no_thread_of_gloo_runs_while_the_interpreter_ends(tmp_path: Path, ends: str) -> None:
    text = THREADS + RANK.replace("FAULT", "pass") + "print(sum('gloo' in n for n in threads()))\n"
    text += ends
    (tmp_path / "rank.py").write_text(text)
    ranks = [start(rank, f"file://{tmp_path}/store", tmp_path) for rank in range(2)]
    for rank in outcomes(ranks, 60):
        assert rank.returncode == 0, rank.stderr
        _, running, left = rank.stdout.split()
        assert int(running) > 0 == int(left)


NEVER_CLOSED = """
import atexit, threading, time
from zeropp.runtime.watchdog import Watchdog

class Store:
    def check(self, keys):
        time.sleep(0.05)
        return False

atexit.register(lambda: print([thread.name for thread in threading.enumerate()]))
Watchdog(None, 0, Store(), 0.1)
time.sleep(0.1)
"""


def test_nobody_watches_while_the_interpreter_ends() -> None:
    done = subprocess.run([sys.executable, "-c", NEVER_CLOSED], capture_output=True, text=True)
    assert (done.stdout, done.stderr, done.returncode) == ("['MainThread']\n", "", 0)


def test_a_rank_that_sleeps_makes_every_rank_say_where_it_is(tmp_path: Path) -> None:
    first, second = run_with("time.sleep(100)", tmp_path, 60)
    assert first.returncode == second.returncode == 1
    assert re.search(r"rank \d waited more than 3 s in one action; all ranks stop", first.stderr)
    assert "awaits 1SEND_B" in first.stderr
    assert "of pipeline rank 1" in first.stderr
    assert re.search(r"rank 1 .*in 1F1 \(F of stage 1, micro-batch 1\) for", second.stderr)
    assert "before: " in second.stderr


def test_an_exception_in_a_block_names_rank_and_action(tmp_path: Path) -> None:
    first, second = run_with("raise ValueError('a block broke')", tmp_path, 60)
    said = "rank 1, in 1F1 (F of stage 1, micro-batch 1): ValueError: a block broke"
    for rank in (first, second):
        assert rank.returncode == 1
        assert f"StepFailedError: {said}" in rank.stderr
        assert "finished" not in rank.stdout


@pytest.mark.parametrize(
    ("victim", "moment"),
    [(0, "F 6"), (1, "B 3"), (2, "W 5"), (3, "REDUCE 2"), (0, "UNSHARD 3"), (2, "words 5")],
)
def test_a_rank_killed_at_any_moment_ends_the_others(
    victim: int, moment: str, tmp_path: Path
) -> None:
    """Rank 0 hosts the store by which the others would hear of each other."""
    (tmp_path / "rank.py").write_text(RANK.replace("FAULT", "pass"))
    address, context, ranks = f"tcp://localhost:{free_port()}", forking(), []
    for rank in range(4):
        given = (str(rank), address, "4", moment if rank == victim else "")
        ranks.append(context.Process(target=as_script, args=(tmp_path, *given), daemon=True))
        ranks[-1].start()
    try:
        ranks[victim].join(60)
        deadline = time.monotonic() + TIMEOUT_S + GRACE_S + 3.0
        for rank in ranks:
            rank.join(max(0.0, deadline - time.monotonic()))
        statuses = [rank.exitcode for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert statuses[victim] == -signal.SIGKILL
    for rank in set(range(4)) - {victim}:
        assert statuses[rank] not in (0, None)
        assert f"rank {rank} (pipeline rank {rank // 2}): " in (tmp_path / str(rank)).read_text()


def test_a_mismatched_shape_names_stage_and_action(tmp_path: Path) -> None:
    first, second = run_with("x = x[:, :2]", tmp_path, 60)
    assert second.returncode == 1
    assert "shapes cannot be multiplied" in second.stderr
    assert "in 1F1 (F of stage 1, micro-batch 1)" in second.stderr
    assert first.returncode != 0


def test_interrupting_a_run_stops_it_cleanly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zeropp.cli.main", "train", "--run.steps", "5000"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, **pipes) as run:
        try:
            deadline = time.monotonic() + 90
            while not (tmp_path / "runs" / "demo" / "metrics.jsonl").exists():
                assert time.monotonic() < deadline
                time.sleep(0.1)
            ranks = ranks_of(run.pid)
            run.send_signal(signal.SIGINT)
            _, err = run.communicate(timeout=30)
        finally:
            run.kill()
    assert run.returncode == 130
    assert "zeropp: stopped" in err
    assert len(ranks) == 2
    assert not any(alive(rank) for rank in ranks)


def watched() -> tuple[list[int], list[int], str]:
    """Exit statuses of a rank whose device ends its work late, and of one whose never does."""
    found: list[list[int]] = []
    for ends_after in (0.1, 60.0):
        statuses: list[int] = []
        end = time.monotonic() + ends_after
        dog = Watchdog(Placement(Shape.LOOP, 1, 1), 0, HashStore(), 0.4, stop=statuses.append)
        dog.start()
        dog.begin("in the meeting before the step")
        dog.rest(lambda: time.monotonic() > end)  # noqa: B023
        time.sleep(4.0 if ends_after > 1 else 1.0)
        place = dog.place()
        dog.close()
        found.append(statuses)
    return found[0], found[1], place


def test_the_devices_work_is_watched_after_the_hosts() -> None:
    ((in_time, never, place),) = run_ranks(1, watched)
    assert in_time == []
    assert never == [1]
    assert "in the device's work of the step for" in place

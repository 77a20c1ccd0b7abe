"""What users see when a rank fails: who, where, in which action; and nobody waits for ever."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.processes import alive, ranks_of

RANK = """
import os, signal, sys, time
import torch, torch.distributed as dist
from torch import nn
from zeropp.plan import Plan
from zeropp.runtime.pipeline import Pipeline

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
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
plan = Plan(2, 1, 4, "1f1b")
loss = lambda y, t: (y - t).pow(2).sum()
pipe = Pipeline([Block(0), Block(1)], loss, plan, timeout=3.0)
x = torch.ones(4, 4)
for step in range(3):
    pipe.step((x, x))
print("finished")
"""


def run_with(fault: str, folder: Path, limit: float) -> list[subprocess.CompletedProcess[str]]:
    """Two ranks, the second of which has `fault` in its sixth forward (second step)."""
    script = folder / "rank.py"
    script.write_text(RANK.replace("FAULT", fault))
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    deadline = time.monotonic() + limit
    done = []
    try:
        for rank in ranks:
            out, err = rank.communicate(timeout=max(1.0, deadline - time.monotonic()))
            done.append(subprocess.CompletedProcess(rank.args, rank.returncode, out, err))
    finally:
        for rank in ranks:
            rank.kill()
    return done


def test_without_a_fault_both_finish(tmp_path: Path) -> None:
    for rank in run_with("pass", tmp_path, 60):
        assert rank.returncode == 0, rank.stderr
        assert rank.stdout == "finished\n"


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
    assert second.returncode == 1
    assert "ValueError: a block broke" in second.stderr
    assert (
        "while in rank 1 (pipeline rank 1): in 1F1 (F of stage 1, micro-batch 1)" in second.stderr
    )
    assert first.returncode != 0
    assert "finished" not in first.stdout


def test_a_killed_rank_ends_the_others(tmp_path: Path) -> None:
    first, second = run_with("os.kill(os.getpid(), signal.SIGKILL)", tmp_path, 60)
    assert second.returncode == -signal.SIGKILL
    assert first.returncode == 1
    assert "rank 0 (pipeline rank 0)" in first.stderr


def test_a_mismatched_shape_names_stage_and_action(tmp_path: Path) -> None:
    first, second = run_with("x = x[:, :2]", tmp_path, 60)
    assert second.returncode == 1
    assert "shapes cannot be multiplied" in second.stderr
    assert "in 1F1 (F of stage 1, micro-batch 1)" in second.stderr
    assert first.returncode != 0


def test_interrupting_a_run_stops_it_cleanly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zeropp.cli.main", "train", "--run.steps", "5000"]
    run = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
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


def test_a_timeout_of_nothing_is_refused() -> None:
    from zeropp.runtime.watchdog import Watchdog

    with pytest.raises(ValueError, match="timeout must be above 0"):
        Watchdog(None, 0, None, 0.0)  # type: ignore[arg-type]

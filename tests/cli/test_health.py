"""Copies of parameters that differ, losses that are not calm, ranks that become slow."""

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_cli import zeropp

from support.features import even, gpt, loss_sum
from support.lines import joined
from support.ranks import run_ranks
from zeropp.build import pipeline, program_of
from zeropp.launch import Ended
from zeropp.plan import Plan
from zeropp.planner import read_plan
from zeropp.runtime.mesh import data_rank, data_size
from zeropp.runtime.outcome import StepFailedError
from zeropp.runtime.ties import local_part
from zeropp.train.config import Config, DataConfig
from zeropp.train.figures import Figures
from zeropp.train.fitting import less_memory
from zeropp.train.health import Losses, Speeds, copied, require_equal_copies
from zeropp.train.log import Log
from zeropp.train.task import task_of

B = 4


def flipped(plan: Plan, of: int, name: str) -> tuple[str, str | None]:
    """What has copies, and what is said once a bit of a parameter is flipped on one rank."""
    torch.manual_seed(3)
    pipe = pipeline(gpt(tied=True), loss_sum, plan)
    rank, ranks = data_rank(pipe.mesh), data_size(pipe.mesh)
    pipe.step(
        [
            (x.chunk(ranks)[rank], y.chunk(ranks)[rank])
            for x, y in even(B, torch.Generator().manual_seed(0))
        ]
    )
    torch.optim.AdamW(pipe.parameters(), lr=1e-2).step()
    require_equal_copies(pipe, "step-1")
    if torch.distributed.get_rank() == of:
        held = local_part(dict(pipe.named_parameters())[name].detach())
        held.view(torch.int32).flatten()[0] ^= 1
    said = None
    try:
        require_equal_copies(pipe, "step-1")
    except Ended as why:
        said = str(why)
    what = copied(pipe)
    pipe.close()
    return what, said


@pytest.mark.parametrize(
    ("plan", "of", "name", "has", "says"),
    [
        (Plan(2, 1, B, dp_replicate=2), 3, "5", "all parameters, 2 times and tied", {2, 3}),
        (Plan(2, 1, B), 1, "7.linear.weight", "tied parameters", {0, 1}),
        (Plan(1, 2, B, dp_shard=2), 0, "2", "tied parameters", None),
    ],
)
def test_a_flipped_bit_of_a_copy_is_found_on_every_rank(
    plan: Plan, of: int, name: str, has: str, says: set[int] | None
) -> None:
    every = torch.nn.Sequential(*gpt(tied=True)).named_parameters(remove_duplicate=False)
    whole = next(found for found, _ in every if found.startswith(name))
    for what, said in run_ranks(plan.world_size, flipped, plan, of, whole):
        assert what.startswith(has)
        if says is None:
            assert said is None
        else:
            assert said is not None
            found = re.match(
                rf"copies of ({re.escape(whole)}|0\.[\w.]+) differ between rank (.) and rank (.): ",
                said,
            )
            assert found is not None
            assert set(map(int, found.groups()[1:])) == says
            assert said.endswith("go on from step-1")


def test_a_loss_far_above_the_last_ones_is_a_spike() -> None:
    losses = Losses(stop_after=3)
    calm = [losses.is_spike(4.0 + 0.01 * (step % 5)) for step in range(30)]
    assert not any(calm)
    assert losses.is_spike(5.0)
    assert not losses.is_spike(4.02)


def test_too_many_skipped_steps_in_a_row_end_the_run() -> None:
    losses = Losses(stop_after=3)
    for first in (1, 5):
        assert "the step is skipped" in losses.skipped(first, "step-4")
        losses.skipped(first + 1, "step-4")
        losses.is_spike(4.0)
    losses.skipped(9, "step-4")
    losses.skipped(10, "step-4")
    with pytest.raises(Ended, match=r"3 steps in a row; .* go on from step-4"):
        losses.skipped(11, "step-4")


def slowed() -> list[str]:
    speeds, rank = Speeds(), torch.distributed.get_rank()
    said = []
    for seconds in (1.0, 1.2, 2.0 if rank == 1 else 1.1):
        said += speeds.slow(seconds)
    return said


def test_a_rank_that_becomes_slow_is_named() -> None:
    for said in run_ranks(2, slowed):
        assert said == ["rank 1 computes 2.0 times as long as it did"]


def test_a_disk_that_is_nearly_full_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    free = shutil.disk_usage(tmp_path).free
    for leads, wanted in ((True, 1), (False, free), (True, free)):
        Log(tmp_path, 1, leads).look_at_disk(tmp_path, wanted)
    (line,) = joined(capsys.readouterr().err)
    assert line.endswith("free some, or lower run.keep_last")


SPENT = """
import torch
from zeropp.models import gpt
forward, calls = gpt.DecoderLayer.forward, []
def spent(self, x):
    calls.append(x)
    if len(calls) == 14 and torch.distributed.get_rank() == 1:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return forward(self, x)
gpt.DecoderLayer.forward = spent
"""


def test_out_of_memory_says_what_was_held_and_what_holds_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SPENT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    on = ("--model.layers", "4", "--data.seq-len", "64", "--run.sample", "0", "--run.steps", "2")
    asked = ("--data.micro-batch-size", "16", "--parallel.num-microbatches", "8")
    done = zeropp("train", *on, *asked, cwd=tmp_path)
    assert done.returncode == 1
    said = joined(done.stderr)[-1]
    assert re.search(r"rank 1, in \dF\d \(F of stage \d, micro-batch \d\): out of memory", said)
    share, path = re.findall(r"by estimate (\d+)% of that is held by the plan (\S+) \(", said)[0]
    assert int(share) <= 80
    assert said.endswith(
        f"go on with --plan {path} --run.resume auto in place of options for parallel"
    )
    found = read_plan(tmp_path / path)
    assert found.micro_batch_size * found.plan.num_microbatches * found.plan.dp_size == 128
    monkeypatch.delenv("PYTHONPATH")
    assert (
        zeropp("train", "--plan", path, *on, "--run.resume", "auto", cwd=tmp_path).returncode == 0
    )


def test_what_was_held_is_told_by_the_rank_that_wanted_more() -> None:
    for rank, said in enumerate(run_ranks(2, wanted_more)):
        held = re.search(r", having held [\d.]+ parameters, [\d.]+ optimizer, [\d.]+ every", said)
        assert bool(held) == (rank == 0)
        assert "rank 0, in 0F1: out of memory" in said
        assert said.endswith("; use less")


def test_smaller_micro_batches_are_told_where_no_plan_is_found() -> None:
    asked = Config(parallel=Plan(1, 1, 4), data=DataConfig(micro_batch_size=6))
    task = task_of(asked, asked.saved_plan(), asked.model.gpt().num_blocks)
    other = replace(
        task, program=program_of(Plan(4, 8, 4))
    )  # more stages than the model has blocks
    assert less_memory(asked, other, other.program, torch.device("cpu")) == (
        "data.micro_batch_size 3 with parallel.num_microbatches 8 is the same step with 50% of the "
        "activations; parallel.recompute full holds less; plan auto finds a layout that fits"
    )


def wanted_more() -> str:
    """What each rank says where the first one has no memory left."""
    pipe = pipeline(gpt(), loss_sum, Plan(2, 1, B))
    error = StepFailedError("rank 0, in 0F1: OutOfMemoryError: CUDA out of memory.")
    if pipe.rank == 0:
        error.__cause__ = torch.OutOfMemoryError("CUDA out of memory.")
    ended = Figures(pipe.device).out_of_memory(error, pipe, [], lambda: "use less")
    pipe.close()
    return str(ended)

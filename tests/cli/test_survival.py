"""What is left of a run that is stopped, hindered or restarted, and what is said of it."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import dropwhile
from pathlib import Path
from typing import Any

import pytest

from support.lines import joined
from support.processes import alive, children, ranks_of
from zeropp.checkpoint.files import read, steps_in
from zeropp.cli.main import main

TINY = [
    *("--model.layers", "2", "--data.seq-len", "16", "--data.micro-batch-size", "1"),
    *("--parallel.num-chunks", "1", "--parallel.num-microbatches", "2"),
    *("--run.sample", "0", "--run.eval-every", "1000"),
]
ENDLESS = ["--run.steps", "100000", "--optim.schedule-steps", "200"]
RUN = Path("runs") / "demo"


def command(*options: str) -> list[str]:
    return [sys.executable, "-m", "zeropp.cli.main", "train", *TINY, *options]


def start(cwd: Path, *options: str, **how: Any) -> "subprocess.Popen[str]":
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command(*options), cwd=cwd, stdout=pipe, stderr=subprocess.STDOUT, text=True, **how
    )


def finished(cwd: Path, *options: str, **how: Any) -> tuple[int, str]:
    run = start(cwd, *options, **how)
    output, _ = run.communicate(timeout=120)
    return run.returncode, output


def made(cwd: Path) -> list[dict[str, Any]]:
    path = cwd / RUN / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(happened: Callable[[], Any], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of twelve steps that nothing happened to."""
    cwd = tmp_path_factory.mktemp("whole")
    kept = ["--run.save-every", "2", "--run.keep-last", "2", "--run.keep-every", "4"]
    status, output = finished(cwd, "--run.steps", "12", "--optim.schedule-steps", "200", *kept)
    assert status == 0, output
    return cwd


def test_the_last_ones_are_kept_and_those_of_every_so_many_steps(whole: Path) -> None:
    assert [*steps_in(whole / RUN / "checkpoints")] == [4, 8, 10, 12]


def test_metrics_have_what_a_step_was(whole: Path) -> None:
    assert [step["step"] for step in made(whole)] == list(range(1, 13))
    assert all({"lr", "time", "loss", "grad_norm", "step_s"} <= step.keys() for step in made(whole))


@pytest.mark.parametrize(
    "wish",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGINT, marks=pytest.mark.nightly),
        pytest.param(signal.SIGUSR1, marks=pytest.mark.nightly),
    ],
)
def test_a_stopped_run_goes_on_as_if_it_never_was(
    whole: Path, tmp_path: Path, wish: signal.Signals
) -> None:
    run = start(tmp_path, *ENDLESS)
    wait_for(lambda: len(made(tmp_path)) >= 2)
    run.send_signal(wish)
    output, _ = run.communicate(timeout=60)
    assert run.returncode == 128 + wish
    assert output.splitlines()[-1] == "zeropp: stopped"
    (saved,) = steps_in(tmp_path / RUN / "checkpoints")
    assert saved == len(made(tmp_path))
    again = ["--run.steps", str(saved + 2), "--run.resume", "auto"]
    status, output = finished(tmp_path, *again)
    assert status == 0, output
    assert f"going on from {RUN}/checkpoints/step-{saved}" in output
    both = zip(made(whole), made(tmp_path), strict=False)
    assert all(one["loss"] == other["loss"] for one, other in both)
    assert [step["step"] for step in made(tmp_path)] == list(range(1, saved + 3))


def test_a_second_signal_ends_at_once_what_does_not_move(tmp_path: Path) -> None:
    run = start(tmp_path, *ENDLESS)
    wait_for(lambda: made(tmp_path))
    ranks = ranks_of(run.pid)
    os.kill(ranks[1], signal.SIGSTOP)
    run.send_signal(signal.SIGTERM)
    time.sleep(1.5)
    assert run.poll() is None
    run.send_signal(signal.SIGTERM)
    run.communicate(timeout=20)
    assert run.returncode == 128 + signal.SIGTERM
    assert not any(alive(rank) for rank in ranks)


def test_a_folder_has_one_owner_until_that_is_gone(tmp_path: Path) -> None:
    run = start(tmp_path, "--run.save-every", "0", *ENDLESS)
    try:
        wait_for(lambda: made(tmp_path))
        status, output = finished(tmp_path, "--run.resume", "auto")
        assert status == 2
        assert output.endswith(f"(host {os.uname().nodename}, process {run.pid}); stop it, or "
                               "choose another --run.name\n")  # fmt: skip
    finally:
        run.kill()
        run.communicate()  # until ranks have ended too, which may save before they do
    steps = str(len(made(tmp_path)) + 1)
    status, output = finished(tmp_path, "--run.resume", "auto", "--run.steps", steps)
    assert status == 0, output


def test_a_full_disk_costs_one_checkpoint_and_is_said(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("small " * 10_000)
    data = ["--data.path", "text.txt", "--run.save-every", "2", "--run.steps", "5"]

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))

    status, output = finished(tmp_path, *data, preexec_fn=limited)
    assert status == 1
    *before, last = joined(output)
    path = RUN / "checkpoints" / "step-5"
    assert last.startswith(f"zeropp: checkpoint {path} cannot be written: rank ")
    assert last.endswith("the last good one: none")
    assert sum("cannot be written" in line and "training goes on" in line for line in before) == 1
    assert len(made(tmp_path)) == 5
    assert [*(tmp_path / RUN / "checkpoints").iterdir()] == []


@pytest.mark.nightly
def test_a_folder_that_can_no_longer_be_written_does_not_end_a_run(tmp_path: Path) -> None:
    run = start(tmp_path, "--run.save-every", "5", *ENDLESS)
    wait_for(lambda: len(made(tmp_path)) >= 6)
    (tmp_path / RUN).rename(tmp_path / "away")
    (tmp_path / RUN).write_text("in the way")
    time.sleep(2)
    assert run.poll() is None
    (tmp_path / RUN).unlink()
    (tmp_path / "away").rename(tmp_path / RUN)
    then = len(made(tmp_path))
    wait_for(lambda: len(made(tmp_path)) > then)
    run.send_signal(signal.SIGTERM)
    output, _ = run.communicate(timeout=60)
    assert "metrics are lost until that is mended" in output
    assert run.returncode == 128 + signal.SIGTERM
    steps = [step["step"] for step in made(tmp_path)]
    assert steps == sorted(set(steps))


@pytest.mark.nightly
def test_a_rank_that_hangs_is_named_and_all_end(tmp_path: Path) -> None:
    run = start(tmp_path, "--run.timeout", "3", *ENDLESS)
    wait_for(lambda: made(tmp_path))
    ranks = ranks_of(run.pid)
    os.kill(ranks[1], signal.SIGSTOP)
    output, _ = run.communicate(timeout=90)
    assert run.returncode == 1
    first, *more = dropwhile(lambda line: " waited more" not in line, output.splitlines())
    assert re.fullmatch(r"zeropp: rank 0 waited more than 3 s in one action; all ranks .*", first)
    assert len(more) < 20
    assert not any(alive(rank) for rank in ranks)


def test_a_run_that_diverges_ends_in_one_line(tmp_path: Path) -> None:
    wild = ["--optim.lr", "1e15", "--optim.warmup", "0", "--run.stop-after", "3"]
    status, output = finished(tmp_path, "--run.steps", "50", *wild)
    assert status == 1
    assert (
        "gradients were not finite in 3 steps in a row; lower optim.lr" in output.splitlines()[-1]
    )
    assert all(step["loss"] is None for step in made(tmp_path)[-2:])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--run.steps", "11"], "run.steps: {}/checkpoints/step-12 has made 12 steps already"),
        (["--parallel.num-microbatches", "4"], "data.micro_batch_size: a step of {}/checkpoints"),
        (["--model.layers", "3"], "is of another model"),
        (["--run.resume", str(RUN)], "run.resume: no checkpoint at {}: it holds no zeropp.json"),
    ],
)
def test_what_does_not_go_on_is_refused(
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(whole)
    before = {path: path.stat().st_mtime_ns for path in (whole / RUN).rglob("step-*/*")}
    again = ["train", *TINY, "--run.resume", "auto", "--run.steps", "20", *options]
    assert main(again) == 2
    assert says.format(RUN) in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_settings_are_the_options_and_what_differs_is_told(whole: Path, tmp_path: Path) -> None:
    source = whole / RUN / "checkpoints" / "step-12"
    options = ["--run.resume", str(source), "--run.steps", "13", "--optim.weight-decay", "0.5"]
    status, output = finished(tmp_path, *options)
    assert status == 0, output
    assert "optim.weight_decay was 0.1, is 0.5" in output
    header, _ = read(tmp_path / RUN / "checkpoints" / "step-13")
    decays = {v for k, v in header.values.items() if k.endswith(".weight_decay")}
    assert decays == {0.5, 0.0}
    assert header.run["schedule_steps"] == 200


@pytest.mark.parametrize(
    ("variable", "tool"), [("SLURM_STEP_NUM_TASKS", "srun"), ("OMPI_COMM_WORLD_SIZE", "mpirun")]
)
def test_other_launchers_are_told_what_to_start(
    variable: str, tool: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, "4")
    assert main(["train"]) == 2
    assert f"start one a host: {tool} torchrun --nnodes N" in capsys.readouterr().err


def torchrun(cwd: Path, ranks: int, *options: str, restarts: int = 0) -> "subprocess.Popen[str]":
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc-per-node", str(ranks), "--max-restarts", str(restarts)]
    launched = [*launcher, "-m", *command(*options)[2:]]
    pipe = subprocess.PIPE
    return subprocess.Popen(launched, cwd=cwd, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def test_torchrun_restarts_a_run_from_its_last_checkpoint(whole: Path, tmp_path: Path) -> None:
    steps = ["--run.steps", "12", "--optim.schedule-steps", "200", "--run.save-every", "2"]
    run = torchrun(tmp_path, 2, *steps, restarts=1)
    wait_for(lambda: len(made(tmp_path)) >= 5)
    os.kill(children(run.pid)[-1], signal.SIGKILL)
    output, _ = run.communicate(timeout=120)
    assert run.returncode == 0, output
    assert "going on from" in output
    assert [(s["step"], s["loss"]) for s in made(tmp_path)] == [
        (s["step"], s["loss"]) for s in made(whole)
    ]


@pytest.mark.nightly
def test_more_or_fewer_ranks_go_on_with_the_same_batch(tmp_path: Path) -> None:
    calm = ["--optim.lr", "3e-4", "--optim.schedule-steps", "60", "--parallel.dp-shard", "2"]
    for name, sizes in (("demo", (4, 2, 4)), ("whole", (4,))):
        for index, ranks in enumerate(sizes):
            steps = ["--run.steps", str(4 * (index + 1 + 3 - len(sizes)))]
            named = ["--run.name", name, "--run.resume", "auto", "--run.elastic"]
            run = torchrun(tmp_path, ranks, *calm, *steps, *named)
            output, _ = run.communicate(timeout=120)
            assert run.returncode == 0, output
    (tmp_path / RUN).rename(tmp_path / "elastic")
    (tmp_path / "runs" / "whole").rename(tmp_path / RUN)
    wanted = [step["loss"] for step in made(tmp_path)]
    (tmp_path / "elastic").rename(tmp_path / "runs" / "then")
    text = (tmp_path / "runs" / "then" / "metrics.jsonl").read_text()
    found = [json.loads(line)["loss"] for line in text.splitlines()]
    assert len(found) == 12
    assert found == pytest.approx(wanted, rel=1e-5)

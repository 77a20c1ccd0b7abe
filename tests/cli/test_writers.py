"""TensorBoard and Weights & Biases get the numbers of metrics.jsonl, and never end a run."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.lines import joined
from zeropp.cli.main import main
from zeropp.train.config import RunConfig
from zeropp.train.log import Log
from zeropp.train.writers import makers_of, numbers_of

TINY = [
    *("--model.layers", "2", "--data.seq-len", "16", "--data.micro-batch-size", "1"),
    *("--parallel.num-chunks", "1", "--parallel.num-microbatches", "2"),
    *("--run.sample", "0", "--run.eval-every", "2"),
]
RUN = Path("runs") / "demo"


def trained(cwd: Path, *options: str, **variables: str) -> str:
    command = [sys.executable, "-m", "zeropp.cli.main", "train", *TINY, *options]
    env = os.environ | variables
    done = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def steps_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_tensorboard_has_what_metrics_have_also_after_resuming(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = ["--run.tensorboard", "--run.save-every", "2", "--optim.schedule-steps", "9"]
    trained(tmp_path, *options, "--run.steps", "5")
    checkpoint = str(RUN / "checkpoints" / "step-4")
    trained(tmp_path, *options, "--run.steps", "7", "--run.resume", checkpoint)
    seen = EventAccumulator(str(tmp_path / RUN / "tensorboard"))
    seen.Reload()
    steps = steps_of(tmp_path / RUN)
    assert [one["step"] for one in steps] == [1, 2, 3, 4, 5, 6, 7]
    for name in ("loss", "lr", "memory_gib", "val_loss", "bubble"):
        found = [(event.step, event.value) for event in seen.Scalars(name)]
        wanted = [(one["step"], pytest.approx(one[name])) for one in steps if name in one]
        assert found == wanted
    assert [event.step for event in seen.Images("timeline")] == [2, 4, 6, 7]
    assert "mfu" not in seen.Tags()["scalars"]


def test_only_numbers_are_curves() -> None:
    metrics = {"step": 3, "loss": 1.5, "mfu": None, "time": 5.0, "skipped": True}
    assert numbers_of(metrics) == {"loss": 1.5, "skipped": 1.0}


class Failing:
    name = "run.tensorboard"

    def write(self, metrics: Any, picture: Path | None) -> None:
        raise OSError(28, "No space left on device")

    def close(self) -> None:
        raise AssertionError("it was let go")


def test_a_writer_that_fails_is_told_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Log(tmp_path, 5, leads=True)
    log.add({Failing.name: Failing})
    metrics = {"loss": 1.0, "grad_norm": 1.0, "tokens_per_s": 1.0, "step_s": 1.0, "lr": 1.0}
    for step in (1, 2, 3):
        log.write({"step": step} | metrics)
    log.close()
    assert len(steps_of(tmp_path)) == 3
    (line,) = joined(capsys.readouterr().err)
    assert "run.tensorboard: [Errno 28] No space left on device; nothing more" in line
    assert "No space left" in (tmp_path / "warnings.txt").read_text()


def test_one_that_cannot_begin_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    log = Log(tmp_path, 5, leads=True)
    log.add(makers_of(RunConfig(tensorboard=True), tmp_path, 0, {}))
    (line,) = joined(capsys.readouterr().err)
    assert "run.tensorboard: " in line
    assert line.endswith("nothing more is written there, the run goes on")


def test_wandb_that_is_missing_is_said_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("zeropp.train.writers.find_spec", lambda name: None)
    assert main(["train", "--run.wandb", "a-project"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "zeropp: run.wandb: wandb is not installed; pip install 'zeropp[wandb]'"
    assert [*tmp_path.iterdir()] == []


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_offline_goes_on_under_its_id(tmp_path: Path) -> None:
    options = ["--run.wandb", "a-project", "--run.save-every", "2", "--optim.schedule-steps", "9"]
    offline = {"WANDB_MODE": "offline"}
    output = trained(tmp_path, *options, "--run.steps", "2", **offline)
    assert "run.wandb" not in output.replace("run.wandb a-project", "")
    first = json.loads((tmp_path / RUN / "wandb.json").read_text())
    trained(tmp_path, *options, "--run.steps", "4", "--run.resume", "auto", **offline)
    assert json.loads((tmp_path / RUN / "wandb.json").read_text()) == first
    sittings = [*(tmp_path / RUN / "wandb").glob(f"offline-run-*-{first['id']}")]
    assert len(sittings) == 2
    assert all([*sitting.glob("*.wandb")] for sitting in sittings)

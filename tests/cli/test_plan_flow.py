"""From a profile over a plan to training by it; and all of it by `--plan auto`."""

import json
import tomllib
from pathlib import Path

import pytest
from test_cli import zeropp

from zeropp.cli.main import main
from zeropp.costs import read_profile
from zeropp.plan import read_plan

MODEL = ["--model.layers", "4"]
TINY = ["--data.seq-len", "16", "--run.sample", "4", "--run.steps", "4", *MODEL]


def losses_of(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.fixture(scope="module")
def profiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a profile of two ranks."""
    folder = tmp_path_factory.mktemp("flow")
    sizes = ["--seq-len", "16", "--micro-batch-sizes", "1", "2"]
    done = zeropp("profile", "-o", "profile.toml", *sizes, *MODEL, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "inside a node: " in done.stdout
    return folder


def test_a_profile_says_what_blocks_and_links_take(profiled: Path) -> None:
    profile = read_profile(profiled / "profile.toml")
    assert profile.kinds == ("embedding", *("layer",) * 4, "head")
    assert len(profile.blocks) == 2
    for setting, blocks in profile.blocks.items():
        layer = blocks["layer"]
        tokens = setting.micro_batch_size * profile.seq_len
        assert layer.message == 4 * tokens * 128
        assert layer.until_backward > layer.until_weight > 0
        assert min(layer.forward, layer.backward, layer.weight) > 0
        assert layer.flops == pytest.approx(6 * tokens * (12 * 128**2 + 2 * 16 * 128), rel=0.05)
    assert profile.inside is not None
    assert profile.inside.latency > 0
    assert profile.between is None
    assert profile.optimizer > 0


def test_a_plan_of_the_profile_is_trained_and_compared(profiled: Path) -> None:
    asked = ["--gpus", "2", "--gpus-per-node", "2", "--global-batch", "8", "-o", "plan.toml"]
    done = zeropp("plan", "--profile", "profile.toml", *asked, cwd=profiled)
    assert done.returncode == 0, done.stderr
    done = zeropp("train", "--plan", "plan.toml", "--run.name", "planned", *TINY, cwd=profiled)
    assert done.returncode == 0, done.stderr
    assert "second step: " in done.stdout
    assert " MiB measured (" in done.stdout
    run = profiled / "runs" / "planned"
    assert read_plan(run / "plan.toml") == read_plan(profiled / "plan.toml")
    config = tomllib.loads((run / "config.toml").read_text())
    assert config["plan"] == "runs/planned/plan.toml"
    assert "parallel" not in config
    again = ["--config", str(run / "config.toml"), "--run.name", "again"]
    done = zeropp("train", *again, cwd=profiled)
    assert done.returncode == 0, done.stderr
    assert losses_of(run) == losses_of(profiled / "runs" / "again")


def test_auto_measures_plans_and_trains(tmp_path: Path) -> None:
    done = zeropp("train", "--plan", "auto", *TINY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "measuring blocks" in done.stdout
    assert "plan: " in done.stdout
    assert "second step: " in done.stdout
    run = tmp_path / "runs" / "demo"
    plan = read_plan(run / "plan.toml")
    assert plan.plan.world_size == 2
    assert plan.plan.num_microbatches * plan.plan.dp_size * plan.micro_batch_size == 16
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "--plan", "nowhere.toml"], "plan: cannot read nowhere.toml"),
        (["train", "--plan", "p.toml", "--parallel.pp-size", "4"], "parallel: the plan file"),
        (["train", "--run.adapt-every", "-1"], "run.adapt_every must be 0 or more"),
        (["train", "--run.adapt-gain", "2"], "run.adapt_gain must be above 0"),
        (
            ["train", "--run.adapt-every", "5", "--parallel.schedule", "interleaved-1f1b"],
            "only the schedule zeropp adapts",
        ),
        (["profile", "--ranks", "0"], "ranks must be at least 1"),
        (["profile", "--seq-len", "999"], "seq_len must be from 1 to"),
        (["profile", "--micro-batch-sizes", "0"], "micro_batch_sizes must be at least 1"),
        (["profile", "--recompute", "some"], "recompute must be of none, selective, full"),
        (["profile", "-o", "profile.json"], "output must be a .toml file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_refused_before_anything_starts(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        status = main(arguments)
    except SystemExit as exit_:  # by the parser of options
        status = exit_.code
    assert status == 2
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

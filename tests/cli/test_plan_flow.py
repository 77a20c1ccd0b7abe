"""From a profile over a plan to training by it; and all of it by `--plan auto`."""

import json
import tomllib
from pathlib import Path

import pytest
from test_cli import zeropp

from zeropp.planner import read_plan
from zeropp.planner.profile_file import read_profile

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
    assert 0 < profile.inside.host < 0.1  # a rank on a CPU is busy with its messages
    assert profile.between is None
    assert profile.optimizer > 0


def test_compiled_blocks_are_profiled(tmp_path: Path) -> None:
    sizes = ["--seq-len", "16", "--micro-batch-sizes", "1", "--compile", "aot_eager"]
    done = zeropp("profile", "-o", "compiled.toml", *sizes, *MODEL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (blocks,) = read_profile(tmp_path / "compiled.toml").blocks.values()
    assert blocks["layer"].flops == pytest.approx(6 * 16 * (12 * 128**2 + 2 * 16 * 128), rel=0.05)
    assert blocks["layer"].until_backward > blocks["layer"].until_weight > 0


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

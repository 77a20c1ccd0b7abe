"""`zeropp plan`: what it prints and writes, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from zeropp.cli.main import main
from zeropp.ir.model import SIZES
from zeropp.planner import read_plan
from zeropp.planner.analytic import Hardware, analytic_profile
from zeropp.planner.profile_file import write_profile

SMALL = [
    *("plan", "--model", "gpt2-124m", "--gpus", "4"),
    *("--global-batch", "16", "--micro-batch-sizes", "1"),
]


def test_a_plan_is_printed_with_reasons_and_assumptions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(SMALL) == 0
    out = capsys.readouterr().out
    for part in ("tokens/s", "MFU", "peak memory", "Pipelining", "Limited by", "assumed:", "A100"):
        assert part in out


def test_json_plan_file_and_picture_agree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, picture = tmp_path / "plan.toml", tmp_path / "units.svg"
    assert main([*SMALL, "--json", "-o", str(plan), "--explain", str(picture)]) == 0
    values = json.loads(capsys.readouterr().out)
    saved = read_plan(plan)
    assert saved.plan.pp_size == values["plan"]["pp_size"]
    assert saved.micro_batch_size == values["plan"]["micro_batch_size"] == 1
    assert saved.plan.world_size == 4
    assert saved.predicted == values["predicted"]
    assert values["predicted"]["tokens_per_s"] > 0
    assert 0 < values["predicted"]["mfu"] < 1
    assert {"family", "reasons", "rivals", "assumptions", "searched"} <= values.keys()
    assert "micro-batches in a unit" in picture.read_text("utf-8")


def test_a_measured_profile_stands_in_for_model_and_hardware(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = analytic_profile(SIZES["toy"], Hardware("H200", "nvlink", "ib-400"), 128, [2])
    write_profile(made, tmp_path / "profile.toml")
    arguments = ["plan", "--profile", str(tmp_path / "profile.toml"), "--gpus", "2"]
    assert main([*arguments, "--global-batch", "8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["micro_batch_size"] == 2


def test_a_model_may_be_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.toml"
    path.write_text("vocab_size = 1000\nseq_len = 64\nlayers = 2\nhidden = 64\nheads = 4\n")
    assert main(["plan", "--model", str(path), "--gpus", "1", "--global-batch", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["pp_size"] == 1
    path.write_text("vocab_size = 1000\nlayers = 2\nhidden = 64\nheads = 4\n")
    assert main(["plan", "--model", str(path), "--gpus", "1", "--global-batch", "2"]) == 2
    assert "missing field seq_len" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "8"], "model: give one of --model, --model.hf and --profile"),
        (["--gpus", "8", "--model", "huge"], "model must be one of toy"),
        (["--gpus", "8", "--model", "none.toml"], "model: cannot read none.toml"),
        (["--gpus", "8", "--profile", "none.toml"], "profile: cannot read none.toml"),
        (["--gpus", "12", "--model", "toy"], "gpus must be a multiple of gpus_per_node (8)"),
        (["--gpus", "0", "--model", "toy"], "gpus must be at least 1, got 0"),
        (["--gpus", "8", "--model", "toy", "--gpu", "B1"], "gpu: no 'B1'"),
        (["--gpus", "8", "--model", "toy", "--between", "ib"], "between: no link 'ib'"),
        (["--gpus", "8", "--model", "toy", "--seq-len", "999"], "seq_len must be from 1 to"),
        (["--gpus", "8", "--model", "toy", "--micro-batch-sizes", "0"], "micro_batch_sizes must"),
        (["--gpus", "8", "--model", "toy", "--memory", "-1"], "memory must be above 0, got -1"),
        (["--gpus", "8", "--model", "toy", "-o", "no/plan.toml"], "folder 'no' does not"),
        (["--gpus", "8", "--model", "toy", "-o", "plan.txt"], "output must end in .toml"),
        (["--gpus", "8", "--model", "toy", "--explain", "u.txt"], "must end in .svg or .png"),
        (["--gpus", "64", "--model", "toy", "--global-batch", "3"], "global_batch: 3 sequences"),
        (["--gpus", "1", "--model", "llama-8b"], "memory: no plan fits"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    batch = [] if "--global-batch" in arguments else ["--global-batch", "64"]
    assert main(["plan", *arguments, *batch]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_planning_imports_no_torch() -> None:
    code = (
        "import sys; from zeropp.cli.main import main; "
        f"main({[*SMALL, '--json']!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

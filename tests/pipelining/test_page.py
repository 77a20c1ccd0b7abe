"""The page about torch's pipelining: its example and its commands run as they stand."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from zeropp.cli.main import main

TINY = ["--data.seq-len", "16", "--run.sample", "4", "--run.steps", "2"]
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "pipelining.md").read_text("utf-8")


def test_the_example_trains(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    (command,) = re.findall(r"^    torchrun (.*)$", PAGE, re.M)
    *options, script = shlex.split(command)
    (tmp_path / script).write_text(code, "utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", *options, script]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", done.stdout)]
    assert len(losses) == 3
    assert losses[2] < losses[0]


def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^    zeropp (.*)$", PAGE, re.M)
    commands += re.findall(r"`zeropp (.*?)`", PAGE)
    verbs = "generate verify simulate show generate train generate"
    assert " ".join(command.split()[0] for command in commands) == verbs
    for command in commands:
        small = TINY if command.startswith("train") else []
        assert main([*shlex.split(command), *small]) == 0
    assert (tmp_path / "order.csv").read_text().startswith("0F0,0F1,")


def test_the_script_for_torchs_tests_wants_their_sources(tmp_path: Path) -> None:
    (command,) = re.findall(r"^    python (scripts/\S+) TORCH$", PAGE, re.M)
    done = subprocess.run(
        [sys.executable, str(ROOT / command), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("usage: torch_pipelining.py TORCH")

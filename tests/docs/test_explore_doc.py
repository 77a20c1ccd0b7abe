"""The page about `zeropp explore`: its commands run, and its pictures are there and small."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from support.pyodide import pyodide_folder
from zeropp.cli.main import main
from zeropp.explore.wanted import Wanted, WantedPlan

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "explore.md").read_text(encoding="utf-8")
COMMANDS = [shlex.split(line) for line in re.findall(r"^    zeropp (.*)$", PAGE, re.M)]
SERVE, VERIFY, TRAIN, SITE, WHOLE = COMMANDS


def test_it_prints_an_address_and_ends_with_its_caller() -> None:
    command = [sys.executable, "-m", "zeropp.cli.main", *SERVE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert re.match(r"http://127\.0\.0\.1:\d+/[\w-]{32}/ ", process.stdout.readline())
        process.terminate()


def test_a_saved_program_is_verified_and_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from zeropp.explore.answers import answer

    wanted = {"pp": 2, "chunks": 2, "microbatches": 4, "shard": "unit"}
    told = answer({"do": "save", "wanted": wanted})
    (tmp_path / told["name"]).write_text(told["text"])
    monkeypatch.chdir(tmp_path)
    assert main(VERIFY) == 0
    assert "sound" in capsys.readouterr().out
    small = ["--data.seq-len", "16", "--run.sample", "4"]
    command = [sys.executable, "-m", "zeropp.cli.main", *TRAIN, *small]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr


def test_both_sites_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(SITE) == 0
    assert (tmp_path / "site" / "index.html").is_file()
    pyodide = pyodide_folder()
    if pyodide is None:
        pytest.skip("neither build/pyodide nor npm with its registry is here")
    (tmp_path / "node_modules").symlink_to(pyodide.parent)
    assert main(WHOLE) == 0
    assert (tmp_path / "whole" / "pyodide" / "pyodide.asm.wasm").is_file()


def test_its_limits_are_those_of_the_code() -> None:
    pairs, gpus = map(int, re.findall(r"up to\s+(\d+)", PAGE))
    Wanted(pp=1, microbatches=pairs)
    with pytest.raises(ValueError, match=f"up to {pairs}, got {pairs + 1}"):
        Wanted(pp=1, microbatches=pairs + 1)
    with pytest.raises(ValueError, match=f"a page plans for up to {gpus}, got {gpus + 1}"):
        WantedPlan(gpus=gpus + 1, global_batch=1, model="toy")


def test_its_pictures_are_there_and_small() -> None:
    named = re.findall(r"\]\((pictures/[\w-]+\.png)\)", PAGE)
    assert len(named) == 3
    assert all(0 < (DOCS / name).stat().st_size < 150_000 for name in named)

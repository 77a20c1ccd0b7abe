"""`zeropp train --program`: a file edited by hand is what runs, or is refused in one line."""

import json
import os
import tomllib
from pathlib import Path

import pytest
from test_cli import TINY, zeropp

from zeropp.cli.main import main

SIZE = ["zeropp", "--pp", "2", "--chunks", "2", "--microbatches", "4"]
COUNTING = """
import os, sys
import zeropp.generate as package
made = package.generate
def generate(*arguments, **more):
    with open(os.environ["ZEROPP_COUNTED"], "a") as file:
        print(*sys.argv, file=file)
    return made(*arguments, **more)
package.generate = generate
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """p.txt, the only file of the current folder: a program with two W's swapped by hand."""
    monkeypatch.chdir(tmp_path)
    written = ["--program", "--shard", "unit", "--split", "3", "2", "2", "3", "-o", "p.txt"]
    assert main(["generate", *SIZE, *written]) == 0
    path = tmp_path / "p.txt"
    edit(path, "0W2 0W3", "0W3 0W2")
    return path


@pytest.fixture
def counted(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with one line for each call of `generate` in any process that is started."""
    folder = tmp_path_factory.mktemp("counting")
    (folder / "sitecustomize.py").write_text(COUNTING)
    path = folder / "calls.txt"
    path.touch()
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    monkeypatch.setenv("ZEROPP_COUNTED", str(path))
    return path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_an_edited_program_is_verified_and_trained_as_it_is(
    program: Path, counted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "p.txt"]) == 0
    assert "p.txt: sound" in capsys.readouterr().out
    done = zeropp("train", "--program", "p.txt", "--run.steps", "2", *TINY, cwd=program.parent)
    assert done.returncode == 0, done.stderr
    assert counted.read_text() == ""
    run = program.parent / "runs" / "demo"
    assert (run / "program.txt").read_text() == program.read_text()
    assert tomllib.loads((run / "config.toml").read_text())["program"] == "p.txt"
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2


def test_two_ranks_generate_their_schedule_once(tmp_path: Path, counted: Path) -> None:
    done = zeropp("train", "--run.steps", "1", *TINY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = (tmp_path / "runs" / "demo" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 1
    assert len(counted.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--parallel.num-chunks", "4"], "parallel.num_chunks: the program file decides (2)"),
        (["--parallel.unit-size", "2"], "parallel.unit_size: the program file decides (None)"),
        (["--parallel.pp-size", "4"], "parallel.pp_size: the program file decides (2)"),
        (["--plan", "plan.toml"], "program: a plan makes its own program"),
        (["--run.adapt-every", "5"], "run.adapt_every: a program file runs as it is"),
    ],
    ids=" ".join,
)
def test_options_that_contradict_the_program_are_refused(
    program: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    assert says in refused(program, capsys, *options)


def test_an_unsound_program_is_refused_with_its_place(
    program: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(program, "3F0 3B0", "3B0 3F0")
    line = refused(program, capsys)
    assert "rank 1, position 10: 3B0 comes before 3F0" in line


def test_a_program_without_collectives_cannot_be_sharded(
    program: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", *SIZE, "--program", "-o", "p.txt"]) == 0
    assert "--shard" in refused(program, capsys, "--parallel.dp-shard", "2")


def test_a_schedule_is_no_program(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", *SIZE, "-o", "p.txt"]) == 0
    assert "it holds a schedule" in refused(program, capsys)


def refused(program: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """The one line by which `zeropp train` refuses; it leaves nothing."""
    capsys.readouterr()
    assert main(["train", "--program", "p.txt", *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("zeropp: ")
    assert list(program.parent.iterdir()) == [program]
    return line

"""The page about planning: every command and example in it runs, and prints what it shows."""

import re
import shlex
from pathlib import Path

import pytest

from zeropp.cli.main import main
from zeropp.planner import read_plan

PAGE = (Path(__file__).parents[2] / "docs" / "planning.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def in_a_plain_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


def indented(text: str) -> str:
    return "".join(f"    {line}".rstrip() + "\n" for line in text.rstrip("\n").split("\n"))


def test_every_command_is_run() -> None:
    commands = re.findall(r"^    (?:\$ )?zeropp .*$", PAGE, re.M)
    assert len(commands) == 2


def test_the_example_prints_what_the_page_shows(capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = re.findall(r"^    zeropp (plan .*)$", PAGE, re.M)
    assert main(shlex.split(command)) == 0
    assert indented(capsys.readouterr().out) in PAGE
    assert read_plan(Path("plan.toml")).plan.world_size == 16
    assert Path("units.svg").is_file()


def test_the_refusal_is_what_the_page_shows(capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = re.findall(r"^    \$ zeropp (plan .*)$", PAGE, re.M)
    assert main(shlex.split(command)) == 2
    assert indented(capsys.readouterr().err) in PAGE


def test_the_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    exec(compile(code, "planning.md", "exec"), {})
    assert "Pipelining pays" in capsys.readouterr().out

"""The page about planning: its commands are run for it, and its Python example runs."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "planning.md").read_text(encoding="utf-8")


def test_every_command_is_run_by_a_block() -> None:
    run = re.findall(r'simulated\.command\("(zeropp plan .*)"\)', PAGE)
    assert re.findall(r"^\$ (zeropp .*)$", PAGE, re.MULTILINE) == run
    assert len(run) == 2
    assert len(re.findall(r"^(?: {4}|\$ )zeropp ", PAGE, re.MULTILINE)) == 2


def test_the_python_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    exec(compile(code, "planning.md", "exec"), {})
    assert "Pipelining pays" in capsys.readouterr().out

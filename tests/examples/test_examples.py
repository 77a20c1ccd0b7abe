"""Every example runs by the command that stands in it, and prints what lies beside it."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from support.processes import free_port

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(p for p in (ROOT / "examples").iterdir() if p.suffix in (".py", ".sh"))
NUMBER = re.compile(r"\d+\.\d{4}")  # losses, of which the last digit depends on the processor


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_it_prints_what_lies_beside_it(example: Path) -> None:
    command, *_ = re.findall(r"^#? {4,5}((?:torchrun|sh) .*)$", example.read_text("utf-8"), re.M)
    assert f"examples/{example.name}" in command
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    known = os.environ | {"PATH": path, "OMP_NUM_THREADS": "1", "PORT": str(free_port())}
    done = subprocess.run(
        shlex.split(command), cwd=ROOT, env=known, capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    there = example.with_suffix(".out").read_text("utf-8")
    assert NUMBER.sub("_", done.stdout) == NUMBER.sub("_", there)
    numbers = [[float(one) for one in NUMBER.findall(text)] for text in (done.stdout, there)]
    assert numbers[0] == pytest.approx(numbers[1], abs=2e-4)


def test_there_are_five_with_their_output() -> None:
    assert len(EXAMPLES) == 5
    assert {path.with_suffix(".out") for path in EXAMPLES} <= set((ROOT / "examples").iterdir())

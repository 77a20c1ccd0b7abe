"""A benchmark that was asked for something it does not know does not run for minutes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FILES = sorted(BENCHMARKS.glob("*.py"))


def test_every_benchmark_can_be_imported_and_measures() -> None:
    names = [file.stem for file in FILES if file.stem != "cluster"]
    code = f"import cluster.worker, {', '.join(names)}"
    subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, timeout=240, check=True)
    ends = r"\n    (run\(CLAIM, measure\)|sys\.exit\(main\(\)\))\n$"
    assert all(re.search(ends, file.read_text("utf-8")) for file in FILES)


@pytest.mark.parametrize("name", ["schedules", "paper", "planner"])
def test_unknown_options_are_refused(name: str) -> None:
    command = [sys.executable, BENCHMARKS / f"{name}.py", "--jsn"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 2
    assert "unrecognized arguments: --jsn" in refused.stderr

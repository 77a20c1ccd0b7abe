"""A benchmark that was asked for something it does not know does not run for minutes."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("name", ["schedules", "paper", "planner"])
def test_unknown_options_are_refused(name: str) -> None:
    command = [sys.executable, BENCHMARKS / f"{name}.py", "--jsn"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 2
    assert "unrecognized arguments: --jsn" in refused.stderr

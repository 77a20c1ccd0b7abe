"""The cluster benchmark refuses a machine that cannot run it; verdicts say what does not win."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str | None]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from support.hosts import refusal

    return refusal


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with iproute2's two programs."""
    for name in ("ip", "tc"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_without_iproute2_one_line_says_so(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "cluster.py"), "--json"]
    environment = os.environ | {"PATH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "cluster.py needs iproute2, but ip and tc cannot be found; install iproute2"
    ]


@pytest.mark.usefixtures("tools")
def test_without_root_it_says_so(refusal: Callable[..., str | None]) -> None:
    assert "needs root" in (refusal(user=1000) or "")


@pytest.mark.usefixtures("tools")
def test_with_both_it_runs(refusal: Callable[..., str | None]) -> None:
    assert refusal(user=0) is None


def test_a_plot_without_a_folder_is_refused_before_anything_runs(tmp_path: Path) -> None:
    plot = tmp_path / "missing" / "rates.png"
    command = [sys.executable, str(BENCHMARKS / "cluster.py"), "--plot", str(plot)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--plot: there is no folder" in done.stderr.splitlines()[-1]


def test_a_verdict_names_what_is_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from cluster.cases import Mapping, figures, verdicts

    steps = {
        "zeropp breadth-first unit": 1.3,
        "zeropp 1f1b microbatch": 2.0,
        "zeropp 1f1b step": 1.0,
        "zeropp drain U=2": 1.0,
        "zeropp carry U=2": 1.2,
    }
    place = {"mapping": "across", "B": 2, "rate": "500 Mbit/s", "peak_MiB": 8.0}
    rows = [place | {"case": case, "step_s": step} for case, step in steps.items()]
    (verdict,) = verdicts(rows)
    assert verdict["fastest_zeropp"] == "zeropp drain U=2"
    assert verdict["does_not_win_over"] == {"zeropp 1f1b step": 1.0}
    assert verdict["zeropp_over_breadth_first"]["zeropp carry U=2"] == 1.08
    found = figures(rows, Mapping.ACROSS, 2, 500)
    assert [figure.holds for figure in found] == [True, True, False, False]

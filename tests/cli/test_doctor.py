"""The page about ranks: what it says where all is well, and where gradients are not."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from support.ranks import run_ranks
from zeropp.measure import doctor
from zeropp.plan import Plan

PAGE = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text("utf-8")


def examined(folder: Path, *launcher: str) -> "subprocess.CompletedProcess[str]":
    (arguments,) = re.findall(r"^    zeropp (doctor .*)$", PAGE, re.M)
    command = [sys.executable, "-m", *launcher, "zeropp.cli.main", *arguments.split()]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")


@pytest.mark.parametrize(
    "launcher",
    [
        pytest.param((), id="alone"),
        pytest.param(TORCHRUN, id="torchrun", marks=pytest.mark.nightly),
    ],
)
def test_ranks_that_are_well(launcher: tuple[str, ...], tmp_path: Path) -> None:
    done = examined(tmp_path, *launcher)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.md").read_text()
    assert page.strip() in done.stdout
    assert page.startswith("# 2 ranks, cpu\n")
    assert "ranks 0 to 1, CPU, torch 2." in page
    assert len(re.findall(r"^- (?:zeropp|zb-v), P=\d V=2 D=\d: \d\.\de-0[78]$", page, re.M)) == 3
    assert "ms predicted" in page
    assert re.search(r"^- found on all ranks in \d\.\d s, with a timeout of 1 s$", page, re.M)
    assert doctor.WRONG not in page


def wrong() -> list[str]:
    """Where gradients are a hundredth too large on one rank."""
    if torch.distributed.get_rank() == 1:
        right = doctor._whole_gradients
        doctor._whole_gradients = lambda pipe: ((n, 1.01 * g) for n, g in right(pipe))
    return list(doctor._gradients(torch.device("cpu")))


def test_a_rank_whose_gradients_are_wrong_is_named() -> None:
    for lines in run_ranks(2, wrong):
        assert len(lines) == 3
        assert all(
            line.startswith("WRONG: rank 1, ") and line.endswith("1.0e-02") for line in lines
        )


def test_layouts_for_any_number_of_ranks() -> None:
    for ranks in (1, 2, 3, 7, 12, 64, 96, 1000):
        found: list[Plan] = list(doctor.plans(ranks))
        assert found
        assert all(plan.world_size == ranks for plan in found)
        assert max(plan.pp_size for plan in found) <= 8


def deaf() -> list[str]:
    """Where one rank's watchdog does not look."""
    if torch.distributed.get_rank() == 0:
        doctor.Watchdog._told = lambda *_: None  # type: ignore[method-assign]
    doctor._PATIENCE_S = 5.0
    return list(doctor._watchdog(torch.device("cpu")))


def test_a_rank_that_does_not_hear_of_another_is_named() -> None:
    for lines in run_ranks(2, deaf):
        assert lines == ["WRONG: ranks 0 did not hear that rank 1 stood still"]

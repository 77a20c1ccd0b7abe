"""A run that is killed, and started again by the same command."""

import os
from pathlib import Path

import pytest

from support.kills import SMALL, Run, differing, kill_often

KILLS = int(os.environ.get("KILLS", "4"))
STEPS = 6 * (KILLS + 1)


@pytest.mark.timeout(60 * (KILLS + 2))
def test_a_killed_run_ends_as_if_it_never_was(tmp_path: Path) -> None:
    for name in ("whole", "torn"):
        (tmp_path / name).mkdir()
    reference, run = (Run(tmp_path / name, STEPS, SMALL) for name in ("whole", "torn"))
    assert reference.start().wait() == 0, reference.output()
    kills = kill_often(run, KILLS, seed=KILLS)
    wanted, made = (
        [(step["step"], step["loss"], step["grad_norm"]) for step in one.made()]
        for one in (reference, run)
    )
    assert made == wanted
    assert [step for step, *_ in made] == list(range(1, STEPS + 1))
    last = f"checkpoints/step-{STEPS}"
    assert differing(reference.folder / last, run.folder / last) == []
    assert not any(kill.orphans for kill in kills)
    assert not [*(run.folder / "checkpoints").glob(".*")]

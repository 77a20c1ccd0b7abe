"""A run that is killed at random moments and started again, against one that never was.

Run: python benchmarks/kills.py [--json]; four ranks, a hundred kills, twenty-five minutes.

What is trained is the demo. A checkpoint is written while training goes on, so what a kill costs is
the interval, and the steps that end while one is written: none here, as a step takes longer.
"""

import tempfile
from collections import Counter
from pathlib import Path

from support.claim import Figure, Row, run
from support.kills import SAVE_EVERY, Run, differing, kill_often

CLAIM = "A run that is killed again and again ends as if it never was"
STEPS, KILLS = 200, 100


def measure() -> tuple[list[Row], list[Figure]]:
    """A row a kind of death."""
    with tempfile.TemporaryDirectory() as whole, tempfile.TemporaryDirectory() as torn:
        reference, ended = Run(Path(whole), STEPS), Run(Path(torn), STEPS)
        if reference.start().wait() != 0:
            raise RuntimeError(reference.output()[-2000:])
        kills = kill_often(ended, KILLS)
        wanted, made = reference.made(), ended.made()
        last = f"checkpoints/step-{STEPS}"
        other = len(differing(reference.folder / last, ended.folder / last))
    losses, ones = ({(step["step"], step["loss"]) for step in of} for of in (made, wanted))
    rows: list[Row] = [
        {"killed": whom, "when": when, "times": times}
        for (whom, when), times in sorted(Counter((k.whom, k.when) for k in kills).items())
    ]
    return rows, [
        Figure("kills", len(kills), KILLS, at_least=True),
        Figure("steps lost or repeated in metrics.jsonl", abs(len(made) - STEPS), 0),
        Figure("steps whose loss differs", len(losses ^ ones), 0),
        Figure("tensors of the last checkpoint that differ", other, 0),
        Figure("most steps made again", max(k.repeated for k in kills), SAVE_EVERY),
        Figure("processes left behind", sum(k.orphans for k in kills), 0),
    ]


if __name__ == "__main__":
    run(CLAIM, measure)

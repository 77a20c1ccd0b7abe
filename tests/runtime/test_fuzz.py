"""Random odd models over random plans equal plain PyTorch, or every rank refuses at once."""

import itertools
import os
import time
from pathlib import Path

import pytest

from support.exactness import Case, errors_of, trains
from support.odd import feature_of, plan_of
from support.ranks import run_ranks
from zeropp.runtime import StepFailedError
from zeropp.runtime.grid import make_mesh

RUNS = int(os.environ.get("FUZZ_RUNS", "40"))  # of all numbers of ranks together
SHARES = {1: 0.3, 2: 0.5, 4: 0.2}
TOLERANCE = 1e-5
PAGE = (Path(__file__).parents[2] / "docs" / "errors.md").read_text("utf-8")


def run(world_size: int, count: int) -> list[tuple[str, float, str, float]]:
    """Of the first that plain PyTorch trains: case, worst error, what was refused, and when."""
    found = []
    seeds = itertools.count(world_size * 100_000)
    cases = (Case(feature_of(seed), plan_of(seed, world_size)) for seed in seeds)
    for case in itertools.islice(filter(trains, cases), count):
        plan, start = case.plan, time.monotonic()
        worst, said = 0.0, ""
        try:
            mesh = make_mesh(plan.pp_size, plan.dp_replicate, plan.dp_shard)
            start = time.monotonic()
            worst = max(errors_of(case, mesh).values())
        except (ValueError, StepFailedError) as refused:
            said = str(refused)
        found.append(
            (
                f"{case} {sorted({type(b).__name__ for b in case.feature.blocks()})}",
                worst,
                said,
                time.monotonic() - start,
            )
        )
    return found


def is_listed(said: str) -> bool:
    """Whether the page of errors has this line."""
    lines = [line.split("`")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    return any(
        all(piece.strip() in said for piece in line.split("…")) and len(line) > 20 for line in lines
    )


@pytest.mark.parametrize("world_size", SHARES)
@pytest.mark.timeout(3600)
def test_odd_models(world_size: int) -> None:
    count = round(RUNS * SHARES[world_size])
    ranks = run_ranks(world_size, run, world_size, count, timeout=3500)
    refusals = 0
    for everywhere in zip(*ranks, strict=True):
        cases, errors, lines, seconds = zip(*everywhere, strict=True)
        assert len(set(lines)) == 1, (cases[0], lines)
        if lines[0]:
            refusals += 1
            assert is_listed(lines[0]), (cases[0], lines[0])
            assert max(seconds) < 10, cases[0]
        assert max(errors) <= TOLERANCE, (cases[0], errors)
        assert all(error == error for error in errors), cases[0]
    assert refusals <= 0.15 * count, refusals
    print(f"{count} models on {world_size} ranks, {refusals} refused")

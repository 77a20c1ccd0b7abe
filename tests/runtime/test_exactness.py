"""Every feature, order, kind of layer and layout equals plain PyTorch."""

from functools import cache

import pytest

from support.exactness import GRIDS, Case, cases_of, measure
from support.ranks import RankFailedError, run_ranks

Found = dict[str, dict[str, float]]
PART = 50  # cases of one run of ranks, which have to end in a test's time


@cache
def measured(grid: str, world_size: int, part: int) -> Found | RankFailedError:
    """Errors of a part of the cases of so many ranks, the worst of the ranks for each tensor."""
    cases = slice(part * PART, (part + 1) * PART)
    try:
        ranks = run_ranks(world_size, measure, grid, world_size, cases, timeout=280)
    except RankFailedError as failed:  # once is enough
        return failed
    worst: Found = {}
    for found in ranks:
        for case, errors in found.items():
            held = worst.setdefault(case, {})
            held |= {name: max(error, held.get(name, 0.0)) for name, error in errors.items()}
    return worst


@pytest.mark.parametrize(
    ("grid", "case"),
    [
        pytest.param(
            grid,
            case,
            id=f"{grid}: {case}",
            marks=[pytest.mark.nightly] if grid.endswith("further") else [],
        )
        for grid in GRIDS
        for case in GRIDS[grid]
    ],
)
def test_exact(grid: str, case: Case) -> None:
    world_size = case.plan.world_size
    part = cases_of(grid, world_size).index(case) // PART
    found = measured(grid, world_size, part)
    if isinstance(found, RankFailedError):
        raise found
    errors = found[str(case)]
    assert len(errors) > 4
    assert {n: e for n, e in errors.items() if not e <= case.feature.tolerance} == {}

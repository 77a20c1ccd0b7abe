"""Every feature, order, kind of layer and layout equals plain PyTorch."""

from functools import cache

import pytest

from support.exactness import GRIDS, Case, measure
from support.ranks import RankFailedError, run_ranks


@cache
def measured(grid: str, world_size: int) -> dict[str, dict[str, float]] | RankFailedError:
    """Errors of all cases of so many ranks, the worst of the ranks for each tensor."""
    try:
        ranks = run_ranks(world_size, measure, grid, world_size, timeout=280)
    except RankFailedError as failed:  # once is enough
        return failed
    worst: dict[str, dict[str, float]] = {}
    for found in ranks:
        for case, errors in found.items():
            held = worst.setdefault(case, {})
            held |= {name: max(error, held.get(name, 0.0)) for name, error in errors.items()}
    return worst


@pytest.mark.parametrize(
    ("grid", "case"),
    [pytest.param(grid, case, id=f"{grid}: {case}") for grid in GRIDS for case in GRIDS[grid]],
)
def test_exact(grid: str, case: Case) -> None:
    found = measured(grid, case.plan.world_size)
    if isinstance(found, RankFailedError):
        raise found
    errors = found[str(case)]
    assert len(errors) > 4
    assert {n: e for n, e in errors.items() if not e <= case.feature.tolerance} == {}

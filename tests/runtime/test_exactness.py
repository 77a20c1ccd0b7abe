"""Every feature, in every layout, equals plain PyTorch."""

from functools import cache

import pytest

from support.exactness import LAYOUTS, Layout, matrix
from support.features import FEATURES, Feature
from support.ranks import run_ranks

TOLERANCE = 1e-5  # relative, fp32: the order of sums differs, nothing else


@cache
def measured(world_size: int) -> dict[tuple[str, str], float]:
    """The worst of the ranks."""
    ranks = run_ranks(world_size, matrix, world_size, timeout=280)
    return {case: max(rank[case] for rank in ranks) for case in ranks[0]}


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_exact(feature: Feature, layout: Layout) -> None:
    assert measured(layout.world_size)[feature.name, str(layout)] <= TOLERANCE

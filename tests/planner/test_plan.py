"""A plan refuses what does not fit, and splits blocks evenly."""

from typing import Any

import pytest

from zeropp.plan import Plan


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"dp_shard": 0}, "dp_shard must be at least 1"),
        ({"max_resident": 0}, "max_resident must be at least 1"),
        ({"prefetch": -1}, "prefetch must be 0 or more"),
        ({"shard": "often"}, "shard must be one of unit, step, microbatch"),
        ({"recompute": "all"}, "recompute must be one of none, selective, full"),
        ({"schedule": "none"}, "unknown schedule"),
        ({"pp_size": 0}, "pp_size must be at least 1"),
        ({"slots": 1, "num_chunks": 2}, "slots"),
    ],
)
def test_a_field_out_of_range_is_named(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Plan(**fields)


def sizes(plan: Plan, blocks: int) -> list[int]:
    return [len(stage) for stage in plan.stage_blocks(blocks)]


def test_spare_blocks_go_to_the_outer_stages() -> None:
    plan = Plan(2, 2, 4)
    assert sizes(plan, 4) == [1, 1, 1, 1]
    assert sizes(plan, 10) == [3, 2, 2, 3]
    assert sizes(plan, 11) == [3, 3, 2, 3]
    assert [block for stage in plan.stage_blocks(11) for block in stage] == list(range(11))


def test_a_split_is_taken_as_it_is_or_refused() -> None:
    assert sizes(Plan(2, 2, 4, split=(1, 4, 4, 1)), 10) == [1, 4, 4, 1]
    for wrong in ((5, 5), (1, 4, 4, 2), (0, 4, 4, 2)):
        with pytest.raises(ValueError, match="split must list 4 positive sizes that sum to 10"):
            Plan(2, 2, 4, split=wrong).stage_blocks(10)
    with pytest.raises(ValueError, match="3 blocks, fewer than pp_size x num_chunks = 4"):
        Plan(2, 2, 4).stage_blocks(3)

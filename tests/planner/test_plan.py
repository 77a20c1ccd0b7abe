"""A plan refuses what does not fit, is made in no time, and blocks are split evenly."""

import time
from typing import Any

import pytest

from zeropp.build import program_of
from zeropp.ir import stage_blocks
from zeropp.plan import Plan


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"dp_shard": 0}, "dp_shard must be at least 1"),
        ({"max_resident": 0}, "max_resident must be at least 1"),
        ({"prefetch": -1}, "prefetch must be 0 or more"),
        ({"shard": "often"}, "shard must be one of unit, step, microbatch"),
        ({"recompute": "all"}, "recompute must be one of none, selective, full"),
        ({"pp_size": 0}, "pp_size must be at least 1"),
    ],
)
def test_a_field_out_of_range_is_named(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Plan(**fields)


@pytest.mark.parametrize(
    ("fields", "says"),
    [({"schedule": "none"}, "unknown schedule"), ({"slots": 1, "num_chunks": 2}, "slots")],
)
def test_what_the_generator_refuses_shows_when_the_program_is_made(
    fields: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        program_of(Plan(**fields))


def test_making_a_plan_generates_nothing() -> None:
    start = time.perf_counter()
    for _ in range(100):
        Plan(pp_size=32, num_chunks=4, num_microbatches=256)
    assert (time.perf_counter() - start) / 100 < 1e-3


def sizes(blocks: int, split: tuple[int, ...] | None = None) -> list[int]:
    return [len(stage) for stage in stage_blocks(blocks, 4, split)]


def test_spare_blocks_go_to_the_outer_stages() -> None:
    assert sizes(4) == [1, 1, 1, 1]
    assert sizes(10) == [3, 2, 2, 3]
    assert sizes(11) == [3, 3, 2, 3]
    assert [block for stage in stage_blocks(11, 4) for block in stage] == list(range(11))


def test_a_split_is_taken_as_it_is_or_refused() -> None:
    assert sizes(10, (1, 4, 4, 1)) == [1, 4, 4, 1]
    for wrong in ((5, 5), (1, 4, 4, 2), (0, 4, 4, 2)):
        with pytest.raises(ValueError, match="split must list 4 positive sizes that sum to 10"):
            sizes(10, wrong)
    with pytest.raises(ValueError, match="3 blocks, fewer than pp_size x num_chunks = 4"):
        sizes(3)

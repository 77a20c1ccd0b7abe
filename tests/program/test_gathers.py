"""How often parameters are gathered, by schedule, unit and resident stages."""

from itertools import pairwise

import pytest

from zeropp.generate import generate
from zeropp.ir import Kind, Order, Schedule
from zeropp.program.collectives import shard

Most = tuple[int, int, int]  # with one, two and three resident stages

INTERLEAVED: Most = (195, 20, 15)
BREADTH_FIRST: Most = (7, 6, 5)
UNITS_OF_P: Most = (25, 18, 11)
UNITS_OF_2P: Most = (13, 10, 7)


def drained(P: int, V: int, B: int, U: int) -> Schedule:
    return generate(Order("zeropp", unit_size=U, seam="drain"), P, V, B)


@pytest.mark.parametrize(
    ("schedule", "most"),
    [
        (generate(Order("interleaved-1f1b"), 8, 4, 32), INTERLEAVED),
        (generate(Order("breadth-first"), 8, 4, 32), BREADTH_FIRST),
        (drained(8, 4, 32, 8), UNITS_OF_P),
        (drained(8, 4, 32, 16), UNITS_OF_2P),
    ],
    ids=["interleaved-1f1b", "breadth-first", "drained, U=P", "drained, U=2P"],
)
def test_no_rank_gathers_more_than_published(schedule: Schedule, most: Most) -> None:
    for resident, bound in enumerate(most, start=1):
        assert max(shard(schedule, "unit", resident).count(Kind.UNSHARD)) <= bound


@pytest.mark.parametrize("P", [1, 2, 4, 8])
@pytest.mark.parametrize("V", [1, 2, 3, 4])
def test_drained_units_meet_the_floor_with_one_resident_stage(P: int, V: int) -> None:
    for U in (P, 2 * P - 1, 2 * P, 3 * P):
        for units in (1, 2, 4):
            program = shard(drained(P, V, U * units, U), "unit", max_resident=1)
            assert program.count(Kind.UNSHARD) == (1 + (2 * V - 2) * units,) * P
            assert program.count(Kind.REDUCE) == (V * units,) * P


@pytest.mark.parametrize("name", ["breadth-first", "zeropp"])
def test_more_resident_stages_never_gather_more(name: str) -> None:
    schedule = generate(Order(name), 8, 4, 32)
    counts = [shard(schedule, "unit", limit).count(Kind.UNSHARD) for limit in (1, 2, 3, 4)]
    for fewer, more in pairwise(counts):
        assert all(b <= a for a, b in zip(fewer, more, strict=True))
    assert counts[-1] == (4,) * 8

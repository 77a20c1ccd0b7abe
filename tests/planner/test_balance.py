"""Layer balance against every possible cut."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeropp.ir import Placement, Shape
from zeropp.planner.balance import balance, slowest_rank

LOOP, VEE = Shape.LOOP, Shape.VEE


def best_of_all_cuts(times: list[float], placement: Placement) -> float:
    cuts = combinations(range(1, len(times)), placement.num_stages - 1)
    splits = ([b - a for a, b in pairwise((0, *cut, len(times)))] for cut in cuts)
    return min(slowest_rank(times, split, placement) for split in splits)


@st.composite
def problems(draw: st.DrawFn, alike: bool) -> tuple[list[float], Placement]:
    P, V = draw(st.sampled_from([(1, 1), (2, 1), (3, 1), (2, 2), (3, 2), (2, 3), (1, 3), (4, 1)]))
    shape = draw(st.sampled_from([LOOP, VEE]))
    count = draw(st.integers(P * V, 10))
    time = st.floats(0.1, 9) | st.integers(1, 4).map(float)
    if alike:
        middle = [draw(time)] * max(0, count - 2)
        return ([draw(time), *middle, draw(time)][:count], Placement(shape, P, V))
    return ([draw(time) for _ in range(count)], Placement(shape, P, V))


@pytest.mark.parametrize("alike", [True, False])
@settings(max_examples=150)
@given(data=st.data())
def test_no_cut_is_better(alike: bool, data: st.DataObject) -> None:
    times, placement = data.draw(problems(alike))
    found = balance(times, placement)
    assert found.exact
    assert len(found.split) == placement.num_stages
    assert min(found.split) >= 1
    assert sum(found.split) == len(times)
    assert found.slowest == pytest.approx(slowest_rank(times, found.split, placement))
    assert found.slowest <= best_of_all_cuts(times, placement) * (1 + 1e-12)


def test_embedding_and_head_are_counted() -> None:
    times = [0.0, *(1.0,) * 8, 2.0]
    assert balance(times, Placement(LOOP, 2, 1)) == ((6, 4), 5.0, True)
    assert balance(times, Placement(LOOP, 2, 2)).slowest == 5.0
    assert balance(times, Placement(VEE, 2, 2)).slowest == 5.0
    alone = balance([1.0, 1.0, 1.0, 50.0], Placement(LOOP, 4, 1))
    assert alone.split == (1, 1, 1, 1)


def test_a_head_of_many_layers_stands_alone() -> None:
    times = [0.1, *(1.0,) * 6, 9.0]
    assert balance(times, Placement(LOOP, 3, 1)).split[-1] == 1


def test_large_models_are_cut_at_once() -> None:
    times = [0.01, *(1.0,) * 400, 3.0]
    found = balance(times, Placement(LOOP, 64, 4))
    assert found.slowest <= 7.01


def test_many_unlike_blocks_are_cut_well_and_say_that_they_may_not_be_best() -> None:
    times = [1 + (i * 7919 % 97) / 970 for i in range(48)]
    found = balance(times, Placement(LOOP, 4, 3))
    assert not found.exact
    assert found.slowest <= sum(times) / 4 * 1.05


def test_too_few_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="3 blocks, fewer than pp_size x num_chunks = 4"):
        balance([1.0, 1.0, 1.0], Placement(LOOP, 2, 2))

"""The order of windows: shuffles without tables, epoch after epoch."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropp.tokens.order import Permutation, in_epochs, in_rounds


@given(st.integers(1, 3000), st.text(max_size=5))
def test_a_permutation_has_every_number_once(count: int, key: str) -> None:
    shuffle = Permutation(count, key)
    assert sorted(shuffle[i] for i in range(count)) == list(range(count))


def test_key_and_epoch_change_the_order() -> None:
    first, second = in_epochs(1000, 0, 1000, "a"), in_epochs(1000, 1000, 1000, "a")
    assert sorted(first) == sorted(second) == list(range(1000))
    others = in_epochs(1000, 0, 1000, "b")
    same = [sum(map(int.__eq__, first, other)) for other in (second, others, range(1000))]
    assert max(same) < 12  # of one in a thousand each


@pytest.mark.parametrize("count", [2**40, 10**15])
def test_large_orders_cost_no_more(count: int) -> None:
    found = in_epochs(count, count - 50, 100, "a")
    assert len(set(found)) == 100
    assert all(0 <= number < count for number in found)
    assert max(found) > count // 2 > min(found)


@given(st.integers(1, 50), st.integers(0, 200), st.lists(st.integers(0, 30), max_size=8))
def test_pieces_are_those_of_the_whole(count: int, first: int, sizes: list[int]) -> None:
    for order in (in_rounds, lambda *place: in_epochs(*place, "a")):
        found, at = [], first
        for size in sizes:
            found += order(count, at, size)
            at += size
        assert found == order(count, first, sum(sizes))


def test_rounds_repeat() -> None:
    found = in_rounds(10, 0, 30)
    assert sorted(found[:10]) == list(range(10))
    assert found == found[:10] * 3 != sorted(found[:10]) * 3

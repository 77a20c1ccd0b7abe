"""Ranks on one machine share its cores out among themselves."""

import os

import pytest

from support.ranks import run_ranks
from zeropp.launch.ranks import keep_to_own_cores

ALL = range(8)


def bound(
    monkeypatch: pytest.MonkeyPatch, rank: int, ranks: int, allowed: range = ALL
) -> tuple[int, list[int]]:
    """The number of cores that is told, and those that the process is bound to in the end."""
    cores = [list(allowed)]
    monkeypatch.setattr(os, "cpu_count", lambda: len(ALL))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(cores[-1]))
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, own: cores.append(list(own)))
    return keep_to_own_cores(rank, ranks), cores[-1]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
def test_shares_are_equal_and_apart(monkeypatch: pytest.MonkeyPatch, ranks: int) -> None:
    found = [bound(monkeypatch, rank, ranks) for rank in range(ranks)]
    assert {number for number, _ in found} == {8 // ranks}
    taken = [core for _, own in found for core in own]
    assert len(set(taken)) == len(taken) == ranks * (8 // ranks)


def test_more_ranks_than_cores_share_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bound(monkeypatch, 15, 16) == (1, list(ALL))


def test_who_is_bound_already_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bound(monkeypatch, 1, 2, range(4, 8)) == (2, [4, 5, 6, 7])


def own_cores() -> set[int]:
    """Of this process."""
    return os.sched_getaffinity(0)


def test_real_ranks_have_cores_of_their_own() -> None:
    first, second = run_ranks(2, own_cores, own_cores=True)
    everything = os.sched_getaffinity(0)
    if 2 <= len(everything) == os.cpu_count():
        assert not first & second
    else:
        assert first == second == everything

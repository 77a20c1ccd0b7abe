"""Strict carry: the floor in V U slots, the fewest gathers, and never worse than its prototype."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from zeropp.costs import Costs, floor
from zeropp.generate import generate
from zeropp.ir import Kind, Order, Program, Schedule, evaluate, peak_slots_per_rank
from zeropp.ir.action import WEIGHT
from zeropp.program import lower, verify, verify_within
from zeropp.program.collectives import shard

# what a prototype found at U=P, chunk forwards as the unit: ten rules for each case
PROTOTYPE: list[dict[str, Any]] = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "golden" / "strict_carry.jsonl")
    .read_text()
    .splitlines()
]


def chunk_times(P: int, V: int, times: tuple[float, ...], p2p: float = 0.0) -> Costs:
    """Times of a chunk, not of a whole rank."""
    forward, backward, weight = (time * V for time in times)
    return Costs.uniform(P, V, forward, backward, weight, latency=p2p)


def makespan(schedule: Schedule, costs: Costs) -> float:
    return evaluate(schedule, costs.duration, costs.latency).makespan


def over(schedule: Schedule, costs: Costs) -> float:
    """Percent over the floor."""
    bound = floor(schedule.placement, schedule.num_microbatches, costs)
    return 100 * (makespan(schedule, costs) / bound - 1)


def unreduced(program: Program) -> int:
    """The most gradients of a rank that wait for their REDUCE at once."""
    most = 0
    for order in program.actions:
        waiting = set[int]()
        for action in order:
            if action.kind in WEIGHT:
                waiting.add(action.stage)
            elif action.kind is Kind.REDUCE:
                waiting.discard(action.stage)
            most = max(most, len(waiting))
    return most


@pytest.mark.parametrize("P", [4, 8, 16])
def test_equal_times_reach_the_floor_in_the_slots_of_a_unit(P: int) -> None:
    for V, B in product((2, 4, 8), (2 * P, 4 * P, 8 * P)):
        if P * V * B > 4096:
            continue  # benchmarks/schedules.py
        costs = Costs.uniform(P, V)
        made = generate(Order("zeropp", P, slots=P * V), P, V, B, costs=costs)
        assert over(made, costs) <= 0.01
        assert max(peak_slots_per_rank(made)) <= P * V
        program = lower(made, "unit", max_resident=1)
        assert max(program.count(Kind.UNSHARD)) == 1 + (2 * V - 2) * B // P
        assert set(program.count(Kind.REDUCE)) == {V * B // P}
        assert unreduced(program) <= 2
        assert verify_within(program, P * V) == ()


@pytest.mark.parametrize("times", [(1, 1, 0.7), (1, 1, 0.5), (1, 1.3, 0.9)])
def test_larger_units_reach_the_floor_where_times_differ(times: tuple[float, ...]) -> None:
    costs = chunk_times(8, 2, times)
    made = generate(Order("zeropp", 16, slots=31), 8, 2, 32, costs=costs)
    assert over(made, costs) <= 0.2
    assert max(peak_slots_per_rank(made)) <= 31
    assert max(shard(made, "unit", 1).count(Kind.UNSHARD)) == 5


@pytest.mark.parametrize("P", [4, 8, 16])
def test_the_default_is_lean_and_gathers_least(P: int) -> None:
    for V, rounds in product((2, 3, 4, 8), (2, 4)):
        made = generate(Order("zeropp"), P, V, rounds * P)
        assert dict(made.params)["seam"] == "strict"
        assert over(made, Costs.uniform(P, V)) <= 0.01
        assert max(peak_slots_per_rank(made)) == P * V
        assert max(shard(made, "unit", 1).count(Kind.UNSHARD)) == 1 + (2 * V - 2) * rounds


def test_units_that_are_not_given_fill_the_seams() -> None:
    for times, sizes in {
        (1, 1, 1): (8,) * 4,
        (1, 1, 0.7): (11, 11, 10),
        (1, 1, 0.5): (16, 16),
    }.items():
        order = Order("zeropp", seam="strict", slots=40)
        assert generate(order, 8, 2, 32, costs=chunk_times(8, 2, times)).units == sizes
    tight = Order("zeropp", seam="strict", slots=17)
    assert generate(tight, 8, 2, 32, costs=chunk_times(8, 2, (1, 1, 0.5))).units == (8,) * 4


def test_there_are_enough_cases() -> None:
    assert len(PROTOTYPE) > 250


@pytest.mark.parametrize("P", [4, 8, 16])
def test_is_never_worse_than_the_prototype_nor_than_eager(P: int) -> None:
    rows = [row for row in PROTOTYPE if row["P"] == P]
    for index, row in enumerate(rows if P < 16 else rows[::6]):
        V, B, slots = row["V"], row["B"], row["slots"]
        costs = chunk_times(P, V, row["costs"], row["p2p"])
        made = generate(Order("zeropp", P, slots=slots), P, V, B, costs=costs)
        assert max(peak_slots_per_rank(made)) <= slots
        time, wanted = makespan(made, costs), row["makespan"]
        assert time <= wanted * 1.001, row
        if time >= wanted * (1 - 1e-6):
            assert max(shard(made, "unit", 1).count(Kind.UNSHARD)) <= row["gathers"], row
        if index % 5 == 0:
            eager = generate(Order("zeropp", P, "eager", slots), P, V, B, costs=costs)
            assert time <= makespan(eager, costs) * 1.00002, row


@pytest.mark.parametrize("slots", [5, 6, 8, 11])
def test_any_slots_that_can_work_do(slots: int) -> None:
    costs = chunk_times(4, 2, (1, 1, 0.5), 0.1)
    made = generate(Order("zeropp", 4, "strict", slots), 4, 2, 12, costs=costs)
    assert max(peak_slots_per_rank(made)) <= slots
    assert verify(lower(made, "unit", max_resident=1)) == ()

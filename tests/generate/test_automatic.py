"""U and slots from a memory budget."""

import re
from itertools import pairwise

import pytest

from zeropp.costs import Costs
from zeropp.generate import Budget, generate
from zeropp.ir import Order, Schedule, evaluate, peak_slots_per_rank

GIB = 2.0**30


def within(memory: float, seam: str = "carry", unit: int | None = None) -> Schedule:
    budget = Budget(memory * GIB, GIB)
    costs = Costs.uniform(4, 2)
    size = unit if unit is not None else "auto"
    return generate(
        Order("zeropp", unit_size=size, seam=seam, slots="auto"),
        4,
        2,
        16,
        costs=costs,
        budget=budget,
    )


def makespan(schedule: Schedule) -> float:
    return evaluate(schedule, Costs.uniform(4, 2).duration).makespan


@pytest.mark.parametrize("seam", ["carry", "drain"])
def test_more_memory_is_never_slower_and_is_respected(seam: str) -> None:
    spans = []
    for memory in range(7 if seam == "drain" else 4, 33):
        made = within(memory, seam)
        assert max(peak_slots_per_rank(made)) <= memory
        spans.append(makespan(made))
    assert all(b <= a * 1.002 for a, b in pairwise(spans))


def test_interleaved_memory_is_enough_for_the_floor_and_more_enlarges_units() -> None:
    assert makespan(within(11)) == 16 * 3 + 3 / 2  # the floor
    assert max(within(11).units) < max(within(32).units) == 16


def test_a_unit_that_is_given_is_kept() -> None:
    assert within(12, unit=4).units == (4, 4, 4, 4)


def test_too_small_a_budget_names_the_smallest_that_works() -> None:
    with pytest.raises(ValueError, match=re.escape(f"needs at least {2 * GIB:g}")):
        within(1)
    assert within(2).units == (1,) * 16
    with pytest.raises(ValueError, match="unit_size 8 with 2 chunks needs at least"):
        within(8, unit=8)


def test_auto_and_budget_go_together() -> None:
    with pytest.raises(ValueError, match="slots auto needs a budget"):
        generate(Order("zeropp", slots="auto"), 4, 2, 8)
    with pytest.raises(ValueError, match="budget goes with slots auto"):
        generate(Order("zeropp", slots=11), 4, 2, 8, budget=Budget(5, 1))
    with pytest.raises(ValueError, match="slot_bytes must be"):
        Budget(5, 0)
    with pytest.raises(ValueError, match="not a knob of 1f1b"):
        generate(Order("1f1b", slots="auto"), 4, 1, 8, budget=Budget(5, 1))
    assert max(generate(Order("zeropp", unit_size="auto", slots=11), 4, 2, 8).units) <= 8

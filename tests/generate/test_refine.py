"""Refining: the same actions in the same memory, never slower, and faster where there is room."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.sizes import sized
from zeropp.costs import Costs, floor
from zeropp.generate import generate
from zeropp.generate.refine import refined
from zeropp.ir import Order, Schedule, evaluate, format_schedule, parse, peak_slots_per_rank
from zeropp.program.lowering import lower
from zeropp.program.verifier import verify


def makespan(schedule: Schedule, costs: Costs) -> float:
    return evaluate(schedule, costs.duration, costs.latency).makespan


def heavy_head(P: int, by: float) -> Costs:
    """Two chunks on P ranks, a cheap hop, and a last stage that takes `by` times as long."""
    uniform = Costs.uniform(P, 2, 2, 2.2, 1.6, latency=0.05)
    return uniform.scaled(2 * P - 1, by)


@given(st.data())
def test_any_schedule_keeps_its_actions_and_memory_and_is_never_slower(data: st.DataObject) -> None:
    name, P, V, B = data.draw(sized(4, 6))
    time = st.sampled_from([0.2, 1.0, 1.3])
    stages = st.lists(time, min_size=P * V, max_size=P * V).map(tuple)
    costs = Costs(*(data.draw(stages) for _ in range(3)), data.draw(st.sampled_from([0.0, 0.1])))
    schedule = generate(Order(name), P, V, B)
    better = refined(schedule, costs)
    for before, after in zip(schedule.actions, better.actions, strict=True):
        assert sorted(before) == sorted(after)
    assert max(peak_slots_per_rank(better)) <= max(peak_slots_per_rank(schedule))
    now, bound = makespan(better, costs), floor(schedule.placement, B, costs)
    assert bound * (1 - 1e-9) <= now <= makespan(schedule, costs) * (1 + 1e-9)
    assert verify(lower(better, data.draw(st.sampled_from([None, "unit", "step"])))) == ()
    assert parse(format_schedule(better)) == better


@pytest.mark.parametrize("P", [2, 4, 8])
def test_zb_v_with_a_heavy_last_stage_comes_near_the_floor(P: int) -> None:
    costs, B = heavy_head(P, 1.3), 2 * P
    plain = generate(Order("zb-v"), P, 2, B)
    bound = floor(plain.placement, B, costs)
    better = generate(Order("zb-v", refine=True), P, 2, B, costs=costs)
    assert makespan(plain, costs) > 1.025 * bound
    assert makespan(better, costs) < 1.012 * bound


def test_one_more_slot_brings_zb_v_to_the_floor() -> None:
    costs = Costs.uniform(2, 2, 2, 2.28, 1.64, latency=0.03)
    tight, wide = (
        generate(Order("zb-v", refine=True, slots=s), 2, 2, 4, costs=costs) for s in (None, 5)
    )
    assert (max(peak_slots_per_rank(tight)), max(peak_slots_per_rank(wide))) == (4, 5)
    bound = floor(wide.placement, 4, costs)
    assert makespan(wide, costs) == pytest.approx(bound)
    assert makespan(tight, costs) > 1.005 * bound


def test_carried_orders_leave_nothing_to_refine() -> None:
    costs = Costs.uniform(4, 2, 2, 2.2, 1.6, latency=0.05)
    carried = generate(Order("zeropp"), 4, 2, 8, costs=costs)
    assert makespan(refined(carried, costs), costs) == makespan(carried, costs)


def test_equal_requests_give_equal_orders() -> None:
    first, second = (
        generate(Order("zb-v", refine=True), 4, 2, 8, costs=heavy_head(4, 1.3)) for _ in range(2)
    )
    assert first == second
    assert ("refined", "yes") in first.params


def test_times_default_to_equal_stages() -> None:
    assert (
        generate(Order("zb-v", refine=True), 4, 2, 8).actions
        == generate(Order("zb-v"), 4, 2, 8).actions
    )


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"slots: zb-v holds 8 with these sizes.* got 7"):
        generate(Order("zb-v", refine=True, slots=7), 4, 2, 8)
    with pytest.raises(ValueError, match="slots is not a knob of zb-v; leave it out, or refine"):
        generate(Order("zb-v", slots=9), 4, 2, 8)
    with pytest.raises(ValueError, match="slots is not a knob of zb-v"):
        generate(Order("zb-v", slots="auto", refine=True), 4, 2, 8)
    schedule = generate(Order("1f1b"), 2, 1, 2)
    rank0, rank1 = schedule.actions
    stuck = replace(schedule, actions=(rank0, rank1[::-1]))
    with pytest.raises(ValueError, match="deadlock"):
        refined(stuck, Costs.uniform(2, 1))

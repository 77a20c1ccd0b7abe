"""Costs per stage, and the floor under every makespan."""

import math
from dataclasses import fields

import pytest

from zeropp.costs import Costs, floor
from zeropp.generate import GENERATORS, generate
from zeropp.ir import Action, Kind, Order, Placement, Shape, evaluate, peak_slots_per_rank


def test_uniform_costs_share_a_rank_among_its_chunks() -> None:
    costs = Costs.uniform(4, 2, 1.0, 1.3, 0.9, latency=0.1)
    assert costs.num_stages == 8
    assert costs.duration(Action(Kind.F, 7, 0)) == 0.5
    assert costs.duration(Action(Kind.B, 0, 0)) == 0.65
    assert costs.duration(Action(Kind.W, 3, 0)) == 0.45
    assert costs.duration(Action(Kind.BW, 3, 0)) == pytest.approx(1.1)


def test_scaled_makes_one_stage_slower() -> None:
    costs = Costs.uniform(2, 1, 1.0, 2.0, 3.0).scaled(1, 1.5)
    assert (costs.forward, costs.backward, costs.weight) == ((1, 1.5), (2, 3), (3, 4.5))


def test_a_number_is_that_of_every_stage() -> None:
    costs = Costs.uniform(2, 2, gather=0.5)
    assert costs.gather == (0.5,) * 4
    assert costs.until_weight == (1.0,) * 4
    assert costs == Costs.uniform(2, 2, gather=(0.5,) * 4)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
@pytest.mark.parametrize("name", [field.name for field in fields(Costs)])
def test_bad_numbers_are_refused_by_name(name: str, bad: float) -> None:
    with pytest.raises(ValueError, match=f"costs: {name} must be"):
        Costs.uniform(2, 1, **{name: bad})


def test_every_field_lists_every_stage() -> None:
    with pytest.raises(ValueError, match="costs: weight must list 2 stages"):
        Costs((1.0, 1.0), (1.0, 1.0), (1.0,))
    with pytest.raises(ValueError, match="costs: reduce must list 2 stages"):
        Costs.uniform(2, 1, reduce=(1, 2, 3))
    with pytest.raises(ValueError, match="costs: message must list 2 stages"):
        Costs.uniform(2, 1, message=(1.0,))
    with pytest.raises(ValueError, match="costs: forward must list some stages"):
        Costs((), (), ())
    with pytest.raises(ValueError, match="costs: forward must be above 0"):
        Costs.uniform(2, 1, 0.0)


def test_floor_is_start_up_and_own_work_or_the_critical_chain() -> None:
    placement = Placement(Shape.LOOP, 8, 2)
    assert floor(placement, 32, Costs.uniform(8, 2)) == pytest.approx(32 * 3 + 7 * 0.5)
    chain = floor(placement, 1, Costs.uniform(8, 2, 1.0, 1.3, 0.9, latency=0.1))
    assert chain == pytest.approx(8 * 2.3 + 0.45 + (2 * 16 - 2) * 0.1)


def test_floor_includes_the_way_out_where_w_is_short() -> None:
    costs = Costs.uniform(4, 1, 1.0, 1.0, 0.0)
    assert floor(Placement(Shape.LOOP, 4, 1), 8, costs) == pytest.approx(3 + 8 * 2 + 3)


@pytest.mark.parametrize("P", [4, 8])
def test_the_floor_of_a_vee_has_a_gap_where_b_is_longer_than_f(P: int) -> None:
    costs, placement = Costs.uniform(P, 2, 2, 2.6, 1.8), Placement(Shape.VEE, P, 2)
    own = 4 * P * (2 + 2.6 + 1.8)
    assert floor(placement, 4 * P, costs) == pytest.approx(own + (P - 1))
    assert floor(placement, 4 * P, costs, 2 * P) == pytest.approx(own + (P - 1) * 1.3)
    assert floor(placement, 4 * P, costs, 2 * P - 1) == pytest.approx(own + (P - 1) * 1.3 + 1)


@pytest.mark.parametrize("times", [(1, 1, 1), (1, 1, 0.7), (1, 1, 0.5), (1, 1.3, 0.9)])
def test_zb_v_is_on_the_floor_of_its_memory(times: tuple[float, float, float]) -> None:
    for P in (4, 8):
        costs, made = Costs.uniform(P, 2, *times), generate(Order("zb-v"), P, 2, 4 * P)
        reached = evaluate(made, costs.duration).makespan
        assert reached == pytest.approx(floor(made.placement, 4 * P, costs, 2 * P))


@pytest.mark.parametrize("name", GENERATORS)
def test_no_schedule_beats_the_floor(name: str) -> None:
    V = min(GENERATORS[name].chunks or {2})
    for last, latency, weight in ((1.0, 0.0, 1.0), (1.5, 0.1, 0.3), (0.5, 0.3, 0.0)):
        costs = Costs.uniform(4, V, 1.0, 1.2, weight, latency=latency).scaled(4 * V - 1, last)
        schedule = generate(Order(name), 4, V, 8)
        slots = max(peak_slots_per_rank(schedule))
        reached = evaluate(schedule, costs.duration, costs.latency).makespan
        assert reached >= floor(schedule.placement, 8, costs, slots) * (1 - 1e-9)


def test_floor_refuses_costs_of_another_model() -> None:
    with pytest.raises(ValueError, match="costs must list 4 stages"):
        floor(Placement(Shape.LOOP, 2, 2), 4, Costs.uniform(2, 1))

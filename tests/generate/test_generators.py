"""Schedules as pictures, and the facts about the drained order on unit costs."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.sizes import sized
from zeropp.costs import Costs
from zeropp.generate import GENERATORS, Request, generate
from zeropp.ir import Kind, Order, Schedule, evaluate, format_schedule, parse, peak_slots_per_rank
from zeropp.program.lowering import lower
from zeropp.program.verifier import verify
from zeropp.show import draw_text

GOLDEN = Path(__file__).parent.parent / "golden"


PICTURED = ("zeropp.drain", "zeropp.carry", "zeropp.eager")
SEAMS = ("drain", "carry", "strict", "eager")


def chunks_of(name: str) -> int:
    allowed = GENERATORS[name].chunks
    return 2 if allowed is None else max(allowed)


def unit_costs(schedule: Schedule) -> Costs:
    v = schedule.placement.num_chunks
    return Costs.uniform(schedule.placement.pp_size, v, v, v, v)


def unit_makespan(schedule: Schedule) -> float:
    """On f=b=w=1 per chunk."""
    return evaluate(schedule, unit_costs(schedule).duration).makespan


@pytest.mark.parametrize("picture", [*(n for n in GENERATORS if n != "zeropp"), *PICTURED])
def test_the_picture_is_the_golden_one(picture: str) -> None:
    name, _, seam = picture.partition(".")
    schedule = generate(Order(name, seam=seam or None), 4, chunks_of(name), 8)
    drawn = draw_text(evaluate(schedule, unit_costs(schedule).duration))
    assert drawn.rstrip("\n") == (GOLDEN / f"{picture}.txt").read_text().rstrip("\n")


@pytest.mark.parametrize("P", [2, 3, 4, 8])
@pytest.mark.parametrize("V", [1, 2, 4])
def test_the_drained_order_costs_what_the_paper_says(P: int, V: int) -> None:
    for unit_size in range(P, 2 * P + 3):
        for units in (1, 2, 3):
            B = unit_size * units
            schedule = generate(Order("zeropp", unit_size=unit_size, seam="drain"), P, V, B)
            seam = max(0, 2 * P - 1 - unit_size)
            assert unit_makespan(schedule) == 3 * B * V + (P - 1) + (units - 1) * seam
            if unit_size <= 2 * P - 1:
                assert peak_slots_per_rank(schedule)[0] == unit_size * V


def test_units_are_nearly_equal_and_none_exceeds_u() -> None:
    assert generate(Order("zeropp", unit_size=4, seam="drain"), 4, 2, 7).units == (4, 3)
    assert generate(Order("zeropp", unit_size=8, seam="drain"), 8, 2, 26).units == (7, 7, 6, 6)


@given(st.data())
def test_every_generated_program_is_sound(data: st.DataObject) -> None:
    name, P, V, B = data.draw(sized(5, 10))
    unit = data.draw(st.integers(1, B)) if "unit_size" in GENERATORS[name].options else None
    seam = data.draw(st.sampled_from(SEAMS)) if name == "zeropp" else None
    schedule = generate(Order(name, unit_size=unit, seam=seam), P, V, B)
    assert parse(format_schedule(schedule)) == schedule
    policy = data.draw(st.sampled_from([None, "unit", "step", "microbatch"]))
    assert verify(lower(schedule, policy, max_resident=data.draw(st.integers(1, 3)))) == ()


@given(st.data())
def test_what_is_known_of_a_schedule_holds(data: st.DataObject) -> None:
    name, P, V, B = data.draw(sized(5, 12))
    facts, request = GENERATORS[name], Request(P, V, B)
    if "seam" in facts.options:
        unit = data.draw(st.sampled_from([None, *range(1, B + 1)]))
        seam = data.draw(st.sampled_from(SEAMS))
        latency = data.draw(st.sampled_from([0.0, 0.1, 0.7]))
        costs = Costs.uniform(P, V, latency=latency).scaled(0, data.draw(st.sampled_from([1, 3])))
        request = Request(P, V, B, unit, seam, costs=costs)
        if seam != "drain" and data.draw(st.booleans()):
            least = (V - 1) * (unit or min(P, B)) + 1
            request = replace(request, slots=data.draw(st.integers(least, V * B)))
    made = facts.make(request)
    assert made.placement.shape is facts.shape
    assert peak_slots_per_rank(made)[0] <= facts.most_slots(request)
    assert len(made.units) >= facts.fewest_units(request)
    for order in made.actions:
        assert not facts.fused or Kind.B not in {action.kind for action in order}
        first = [a.stage for a in order if a.kind is Kind.F and a.stage < P]
        later = [index for index, a in enumerate(order) if a.stage >= P]
        assert len(first) == B
        assert min(later, default=B) >= facts.first_turn(request)


@pytest.mark.parametrize("name", GENERATORS)
def test_an_order_that_repeats_holds_no_more_in_a_longer_batch(name: str) -> None:
    V, period = chunks_of(name), GENERATORS[name].period(Request(3, chunks_of(name), 12))
    order = Order(name, 3 if "unit_size" in GENERATORS[name].options else None)
    short, long = (max(peak_slots_per_rank(generate(order, 3, V, B))) for B in (12, 12 + 3))
    assert period in (None, 3)
    assert (short == long) is (period is not None)


@given(st.data())
def test_only_orders_that_go_by_times_differ_with_the_costs(data: st.DataObject) -> None:
    name, P, V, B = data.draw(sized(4, 10))
    seam = data.draw(st.sampled_from(SEAMS)) if name == "zeropp" else None
    costs = Costs.uniform(P, V, 1, 2, 0.5, latency=0.3)
    same = generate(Order(name, seam=seam), P, V, B) == generate(
        Order(name, seam=seam), P, V, B, costs=costs
    )
    assert same or GENERATORS[name].by_times(Request(P, V, B, seam=seam))


@given(st.data())
def test_only_orders_that_go_by_gathers_differ_with_them(data: st.DataObject) -> None:
    name, P, V, B = data.draw(sized(4, 10))
    seam = data.draw(st.sampled_from(SEAMS)) if name == "zeropp" else None
    costs = Costs.uniform(P, V, 1, 1, 0.7)
    slow = replace(costs, gather=(3.0,) * P * V, reduce=(2.0,) * P * V)
    resident = data.draw(st.sampled_from([None, 1, 2]))
    same = generate(Order(name, seam=seam), P, V, B, costs=costs) == generate(
        Order(name, seam=seam), P, V, B, costs=slow, max_resident=resident
    )
    goes_by_them = GENERATORS[name].by_gathers(Request(P, V, B, seam=seam))
    assert same or (goes_by_them and (resident or V) < V)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("zeropp", 0, 1, 4), "pp_size"),
        (("zeropp", 2, 0, 4), "num_chunks"),
        (("zeropp", 2, 1, 0), "num_microbatches"),
        (("1f1b", 2, 2, 4), "num_chunks"),
        (("nonsense", 2, 1, 4), "unknown schedule"),
    ],
)
def test_bad_sizes_name_their_field(arguments: tuple[str, int, int, int], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        generate(Order(arguments[0]), *arguments[1:])


def test_a_unit_above_the_batch_or_a_knob_of_another_schedule_is_refused() -> None:
    with pytest.raises(ValueError, match="unit_size must be at most"):
        Request(2, 1, 4, unit_size=5)
    with pytest.raises(ValueError, match="not a knob of gpipe"):
        generate(Order("gpipe", unit_size=2), 2, 1, 4)

"""W's at the gathers: parameters travel while W's run, within the slots, in sound programs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropp.costs import Costs, floor
from zeropp.generate import generate
from zeropp.ir import Order, peak_slots_per_rank
from zeropp.program import lower, verify_within
from zeropp.simulate import simulate

Times = tuple[float, float, float]


def over(order: Order, gather: float, times: Times = (2, 2, 2)) -> float:
    """Percent over floor and first gather, P=8, V=2, B=32, one resident stage."""
    costs = Costs.uniform(8, 2, *times, gather=gather)
    made = generate(order, 8, 2, 32, costs=costs, max_resident=1)
    if order.slots is not None:
        assert max(peak_slots_per_rank(made)) <= int(order.slots)
    program = lower(made, "unit", max_resident=1, expected=costs.expected(made))
    bound = floor(made.placement, 32, costs) + gather
    return 100 * (simulate(program, costs).makespan / bound - 1)


@pytest.mark.parametrize(("gather", "target"), [(1, 1.0), (2, 2.5), (4, 4.5), (8, 15.0)])
def test_gathers_hide_behind_w(gather: float, target: float) -> None:
    found = over(Order("zeropp", slots=23), gather)
    assert found <= target
    assert found < over(Order("breadth-first"), gather)
    if gather == 1:  # without W's at the gathers, half of that is exposed
        assert over(Order("zeropp", 8, "eager", 23), gather) > 5 * found


@pytest.mark.parametrize(("gather", "target"), [(1, 5), (2, 6), (4, 12), (8, 25)])
def test_short_w_hide_less(gather: float, target: float) -> None:
    assert over(Order("zeropp", slots=23), gather, (2, 2, 1.4)) <= target


@given(st.data())
def test_any_residency_is_sound_and_keeps_its_slots(data: st.DataObject) -> None:
    P, V, B = (
        data.draw(st.integers(1, 5)),
        data.draw(st.integers(1, 4)),
        data.draw(st.integers(1, 9)),
    )
    unit = data.draw(st.integers(1, B))
    slots = data.draw(st.integers((V - 1) * unit + 1, V * B + 1))
    gather, reduce = (data.draw(st.sampled_from([0.0, 0.3, 2.0, 9.0])) for _ in range(2))
    costs = Costs.uniform(P, V, 1, 1.2, 0.8, latency=0.1, gather=gather, reduce=reduce)
    resident = data.draw(st.integers(1, 3))
    seam = data.draw(st.sampled_from(["carry", "strict", "eager"]))
    order = Order("zeropp", unit, seam, slots)
    made = generate(order, P, V, B, costs=costs, max_resident=resident)
    program = lower(made, "unit", max_resident=resident, expected=costs.expected(made))
    assert verify_within(program, slots) == ()

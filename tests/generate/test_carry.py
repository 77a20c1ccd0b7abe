"""ZeroPP with carried W: makespan against the floor, memory, validity at every size, refusals."""

import time
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropp.costs import Costs, floor
from zeropp.generate import generate
from zeropp.ir import Kind, Order, Schedule, evaluate, format_schedule, parse, peak_slots_per_rank

Times = tuple[float, float, float]

EQUAL = (1.0, 1.0, 1.0)
SHORTER_W = (1.0, 1.0, 0.7)
SHORT_W = (1.0, 1.0, 0.5)
SLOW_B = (1.0, 1.3, 0.9)
ALL = (EQUAL, SHORTER_W, SHORT_W, SLOW_B)
PEERS = ("1f1b", "interleaved-1f1b", "gpipe", "breadth-first", "zb-h1", "zb-h2")


def made_for(
    costs: Costs,
    P: int,
    V: int,
    B: int,
    *,
    unit_size: int | None = None,
    slots: int | None = None,
    seam: str | None = None,
) -> Schedule:
    return generate(
        Order("zeropp", unit_size=unit_size, slots=slots, seam=seam), P, V, B, costs=costs
    )


def makespan(schedule: Schedule, costs: Costs) -> float:
    return evaluate(schedule, costs.duration, costs.latency).makespan


def excess(P: int, V: int, B: int, times: Times, *, p2p: float = 0.0, slots: int) -> float:
    """Percent over the floor, in units near P."""
    costs = Costs.uniform(P, V, *times, latency=p2p)
    schedule = made_for(costs, P, V, B, unit_size=min(P, B) if p2p == 0 else None, slots=slots)
    assert max(peak_slots_per_rank(schedule)) <= slots
    return 100 * (makespan(schedule, costs) / floor(schedule.placement, B, costs) - 1)


@pytest.mark.parametrize("times", ALL)
@pytest.mark.parametrize(("P", "V"), [(2, 2), (2, 4), (4, 2), (4, 4), (8, 2), (8, 4), (16, 2)])
def test_reaches_the_floor_in_the_memory_of_interleaved_1f1b(P: int, V: int, times: Times) -> None:
    slots = P * V + P - 1
    assert excess(P, V, 2 * P, times, slots=slots) <= (2 if times == SHORT_W else 0.1)
    for B in (4 * P, 8 * P):
        assert excess(P, V, B, times, slots=slots) <= 0.1


def test_beats_interleaved_1f1b_by_its_whole_steady_bubble() -> None:
    costs = Costs.uniform(8, 2)
    peer = generate(Order("interleaved-1f1b"), 8, 2, 32)
    carried = made_for(costs, 8, 2, 32)
    assert makespan(peer, costs) == pytest.approx(106.5)
    assert makespan(carried, costs) == pytest.approx(99.5)
    assert peak_slots_per_rank(carried)[0] <= peak_slots_per_rank(peer)[0] == 23


@pytest.mark.parametrize("times", ALL)
@pytest.mark.parametrize(("P", "V"), [(2, 2), (2, 4), (4, 2), (4, 4), (8, 2), (8, 4)])
def test_hides_p2p(P: int, V: int, times: Times) -> None:
    for B in (4 * P, 5 * P):
        over = excess(P, V, B, times, p2p=0.1, slots=P * V * 3 // 2)
        assert over <= (0.5 if times == EQUAL else 2)


@pytest.mark.parametrize("p2p", [0.0, 0.1])
@pytest.mark.parametrize("times", ALL)
@pytest.mark.parametrize(("P", "V"), [(1, 2), (3, 1), (4, 2), (4, 4), (8, 2), (8, 3)])
def test_one_unit_is_no_slower_than_drained(P: int, V: int, times: Times, p2p: float) -> None:
    costs = Costs.uniform(P, V, *times, latency=p2p)
    drained = made_for(costs, P, V, P, seam="drain")
    assert makespan(made_for(costs, P, V, P), costs) <= makespan(drained, costs) * 1.00002


@pytest.mark.parametrize("times", ALL)
@pytest.mark.parametrize(("P", "V"), [(4, 2), (4, 4), (8, 2), (8, 4)])
def test_any_batch_size(P: int, V: int, times: Times) -> None:
    slots, short = P * V * 3 // 2, times == SHORT_W
    for B in (P + 1, P + P // 2, 2 * P - 1):
        assert excess(P, V, B, times, p2p=0.02, slots=slots) <= (6.5 if short else 3.5)
    for B in (2 * P + 1, 3 * P + 2, 5 * P - 1):
        assert excess(P, V, B, times, p2p=0.02, slots=slots) <= (1.6 if short else 0.1)


@pytest.mark.parametrize("P", [2, 4])
@pytest.mark.parametrize("V", [1, 2, 3])
def test_no_peer_in_the_same_slots_is_faster(P: int, V: int) -> None:
    batches, hops, tails = (P, P + 1, 4 * P), (0.0, 0.1), (1.0, 1.5)
    for B, times, p2p, tail in product(batches, ALL, hops, tails):
        costs = Costs.uniform(P, V, *times, latency=p2p).scaled(P * V - 1, tail)
        for name in PEERS if V == 1 else PEERS[1:2] + PEERS[3:4]:
            peer = generate(Order(name), P, V, B)
            carried = made_for(costs, P, V, B, slots=max(peak_slots_per_rank(peer)))
            assert makespan(carried, costs) <= makespan(peer, costs) * 1.00002, (name, B, times)


@st.composite
def requests(draw: st.DrawFn) -> tuple[Order, tuple[int, int, int], Costs]:
    P, V, B = draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.integers(1, 13))
    unit_size = draw(st.integers(1, B))
    slots = draw(st.integers((V - 1) * unit_size + 1, V * B + 1))
    time = st.sampled_from([0.0, 0.1, 0.5, 1.0, 1.3])
    stages = st.lists(time, min_size=P * V, max_size=P * V).map(tuple)
    forward = draw(stages.map(lambda times: tuple(t + 0.2 for t in times)))
    costs = Costs(forward, draw(stages), draw(stages), draw(st.sampled_from([0.0, 0.02, 0.7])))
    seam = draw(st.sampled_from(["carry", "strict", "eager"]))
    return Order("zeropp", unit_size, seam, slots), (P, V, B), costs


@given(requests())
def test_any_valid_request_is_complete_and_keeps_its_slots(
    asked: tuple[Order, tuple[int, int, int], Costs],
) -> None:
    order, sizes, costs = asked
    schedule = generate(order, *sizes, costs=costs)
    slots, B, placement = order.slots, schedule.num_microbatches, schedule.placement
    assert isinstance(slots, int)
    assert sizes[2] == B
    for rank, actions in enumerate(schedule.actions):
        expected = product((Kind.F, Kind.B, Kind.W), placement.stages_of(rank), range(B))
        assert sorted(actions) == sorted(expected)
    assert max(peak_slots_per_rank(schedule)) <= slots
    assert makespan(schedule, costs) >= floor(placement, B, costs, slots) * (
        1 - 1e-9
    )  # and it ends
    assert parse(format_schedule(schedule)) == schedule


def test_runs_f_and_b_in_unit_order_and_carries_w() -> None:
    schedule = made_for(Costs.uniform(4, 2), 4, 2, 8)
    assert schedule.units == (4, 4)
    for rank, order in enumerate(schedule.actions):
        low, high = schedule.placement.stages_of(rank)
        blocks = [range(4), range(4, 8)]
        ran = {kind: [a[1:] for a in order if a.kind is kind] for kind in (Kind.F, Kind.B)}
        assert ran[Kind.F] == [(s, m) for unit in blocks for s in (low, high) for m in unit]
        assert ran[Kind.B] == [(s, m) for unit in blocks for s in (high, low) for m in unit]
        last_of_first_unit = max(i for i, a in enumerate(order) if a.kind is Kind.W and a[2] < 4)
        assert last_of_first_unit > order.index((Kind.F, low, 4))


def test_default_unit_is_p_and_larger_batches_get_nearly_equal_units() -> None:
    assert made_for(Costs.uniform(8, 2), 8, 2, 26).units == (9, 9, 8)


def test_equal_requests_give_equal_schedules() -> None:
    costs = Costs.uniform(4, 3, *SHORT_W, latency=0.1)
    assert made_for(costs, 4, 3, 14) == made_for(costs, 4, 3, 14)


@pytest.mark.parametrize(("V", "U", "needed"), [(2, 4, 5), (4, 4, 13), (3, 8, 17), (1, 4, 1)])
def test_too_few_slots_are_refused_with_the_number_needed(V: int, U: int, needed: int) -> None:
    costs = Costs.uniform(4, V)
    assert max(peak_slots_per_rank(made_for(costs, 4, V, 8, unit_size=U, slots=needed))) == needed
    message = f"rank 0.*at least {needed} " if needed > 1 else "slots must be at least 1"
    with pytest.raises(ValueError, match=message):
        made_for(costs, 4, V, 8, unit_size=U, slots=needed - 1)


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="seam must be carry, strict, eager or drain"):
        generate(Order("zeropp", seam="sew"), 2, 2, 4)
    with pytest.raises(ValueError, match="slots is a knob of carried seams"):
        generate(Order("zeropp", seam="drain", slots=9), 2, 2, 4)
    with pytest.raises(ValueError, match="slots is not a knob of gpipe"):
        generate(Order("gpipe", slots=9), 2, 1, 4)
    with pytest.raises(ValueError, match="costs must list 4 stages"):
        generate(Order("zeropp"), 2, 2, 4, costs=Costs.uniform(2, 1))


def test_is_quick() -> None:
    costs = Costs.uniform(8, 2, *SHORT_W, latency=0.1)
    spent = []
    for _ in range(3):
        start = time.perf_counter()
        made_for(costs, 8, 2, 64)
        spent.append(time.perf_counter() - start)
    assert min(spent) < 0.15  # 3072 actions; some 0.03 s on an idle machine

"""The peer schedules: published bubble and memory, validity at every size, refusals."""

from collections import Counter
from itertools import accumulate

import pytest

from zeropp.costs import Costs
from zeropp.generate import GENERATORS, generate
from zeropp.generate.events import Problem
from zeropp.generate.vee import BuildingBlock, squeeze
from zeropp.ir import (
    Action,
    Kind,
    Order,
    Placement,
    Schedule,
    Shape,
    Timeline,
    evaluate,
    format_schedule,
    parse,
    peak_slots_per_rank,
)
from zeropp.ir.precedence import predecessors

Times = tuple[float, float, float]

PEERS = ("zb-h1", "zb-h2", "zb-v", "v-half", "v-min", "gis", "dualpipe-v")
EQUAL = (1.0, 1.0, 1.0)
SHORT_W = (1.0, 1.0, 0.5)
SLOW_B = (1.0, 1.3, 0.9)
VEES = {
    "v-min": lambda P: BuildingBlock(1, 1, 0, 0 if P % 3 else 2),
    "v-half": lambda P: BuildingBlock(1, 2, 0 if P % 2 else 3, 1),
    "zb-v": lambda P: BuildingBlock(1, 5),
}


def timeline(schedule: Schedule, times: Times = EQUAL) -> Timeline:
    """`times`: of one micro-batch's F, B, W through a whole rank."""
    return evaluate(schedule, costs(schedule, times).duration)


def costs(schedule: Schedule, times: Times) -> Costs:
    return Costs.uniform(schedule.placement.pp_size, schedule.placement.num_chunks, *times)


def span_bubble(schedule: Schedule, times: Times = EQUAL) -> float:
    """The papers' bubble: idle time in the longest span from a rank's first start to last end."""
    ran = timeline(schedule, times)
    work = ran.busy(0)
    return max(spans[-1].end - spans[0].start for spans in ran.spans) - work


def makespan_bubble(schedule: Schedule, times: Times = EQUAL) -> float:
    """The same with all ranks waiting for each other at both ends."""
    ran = timeline(schedule, times)
    return ran.makespan - ran.busy(0)


def valid_chunks(name: str) -> tuple[int, ...]:
    return tuple(sorted(GENERATORS[name].chunks or {1, 2, 3}))


@pytest.mark.parametrize("P", [2, 3, 4, 8])
@pytest.mark.parametrize("times", [EQUAL, SHORT_W, SLOW_B])
def test_zb_h1_has_table_2s_bubble_and_1f1bs_memory(P: int, times: Times) -> None:
    F, B, W = times
    for batch in (P, 2 * P, 4 * P + 1):
        schedule = generate(Order("zb-h1"), P, 1, batch)
        assert span_bubble(schedule, times) == pytest.approx((P - 1) * (F + B - W))
        assert makespan_bubble(schedule, times) == pytest.approx((P - 1) * (F + B - W))
        assert peak_slots_per_rank(schedule) == (P,) * P


@pytest.mark.parametrize("P", [2, 3, 4, 8])
@pytest.mark.parametrize("times", [EQUAL, SHORT_W, SLOW_B])
def test_zb_h2_has_table_2s_bubble_and_memory(P: int, times: Times) -> None:
    F, B, W = times
    for batch in (2 * P - 1, 4 * P + 1):
        schedule = generate(Order("zb-h2"), P, 1, batch)
        assert span_bubble(schedule, times) == pytest.approx((P - 1) * (F + B - 2 * W))
        assert makespan_bubble(schedule, times) == pytest.approx((P - 1) * F)
        assert peak_slots_per_rank(schedule) == (2 * P - 1,) * P


@pytest.mark.parametrize("P", [2, 3, 4, 7, 8, 16])
@pytest.mark.parametrize("times", [EQUAL, SHORT_W])
def test_zb_v_has_no_bubble_at_equal_times_in_1f1bs_memory(P: int, times: Times) -> None:
    F, B, W = times
    for batch in (2 * P - 1, 2 * P, 4 * P + 1):
        schedule = generate(Order("zb-v"), P, 2, batch)
        assert span_bubble(schedule, times) == pytest.approx((P - 1) * (F + B - 2 * W) / 2)
        assert makespan_bubble(schedule, times) == pytest.approx((P - 1) * F / 2)
        assert peak_slots_per_rank(schedule) == (2 * P,) * P


@pytest.mark.parametrize("P", [2, 3, 4, 5, 6, 8, 16])
def test_v_half_has_half_of_1f1bs_bubble_and_memory(P: int) -> None:
    for batch in (P, 2 * P + 1, 4 * P):
        schedule = generate(Order("v-half"), P, 2, batch)
        halved = makespan_bubble(generate(Order("1f1b"), P, 1, batch)) / 2
        assert halved == 3 * (P - 1) / 2
        assert makespan_bubble(schedule) == pytest.approx(halved - (P % 2) / 2)
        assert max(peak_slots_per_rank(schedule)) == 2 * ((P + 2) // 2)


@pytest.mark.parametrize("P", [2, 3, 4, 5, 6, 8, 16])
def test_v_min_has_two_thirds_of_1f1bs_bubble_and_a_third_of_its_memory(P: int) -> None:
    for batch in (P, 2 * P + 1, 4 * P):
        schedule = generate(Order("v-min"), P, 2, batch)
        two_thirds = makespan_bubble(generate(Order("1f1b"), P, 1, batch)) * 2 / 3
        assert two_thirds == pytest.approx(4 * (P - 1) / 2)
        assert makespan_bubble(schedule) == pytest.approx(two_thirds - 1 / 2)
        assert max(peak_slots_per_rank(schedule)) == 2 * ((P + 4) // 3)


def test_v_min_degrades_with_the_batch_at_unequal_times() -> None:
    small, large = (makespan_bubble(generate(Order("v-min"), 4, 2, B), SHORT_W) for B in (16, 64))
    assert large > small + 10


@pytest.mark.parametrize(("P", "V"), [(2, 2), (4, 1), (4, 2), (3, 3), (8, 4)])
@pytest.mark.parametrize("times", [EQUAL, SHORT_W, SLOW_B])
def test_gis_has_pipe_offloads_bubble_and_memory(P: int, V: int, times: Times) -> None:
    F, B, _ = times
    for batch in (P, 4 * P):
        schedule = generate(Order("gis"), P, V, batch)
        assert span_bubble(schedule, times) == pytest.approx((P - 1) * (F + B) / V)
        assert makespan_bubble(schedule, times) == pytest.approx((P - 1) * (F + B) / V)
        assert peak_slots_per_rank(schedule) == tuple(P * V - rank for rank in range(P))


@pytest.mark.parametrize("P", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("times", [EQUAL, SHORT_W])
def test_dualpipe_v_in_one_stream(P: int, times: Times) -> None:
    F, B, W = times
    for batch in (2 * P, 3 * P + 1, 4 * P):
        schedule = generate(Order("dualpipe-v"), P, 2, batch)
        assert span_bubble(schedule, times) == pytest.approx((P - 1) * (F + B - W) / 2)
        assert makespan_bubble(schedule, times) == pytest.approx((P - 1) * (F + B - W) / 2)
        assert peak_slots_per_rank(schedule) == (2 * P + 1,) * P


@pytest.mark.parametrize("P", [1, 2, 4, 8])
@pytest.mark.parametrize("times", [EQUAL, SHORT_W, SLOW_B])
def test_dualpipe_v_with_indivisible_pairs_has_the_readmes_bubble(P: int, times: Times) -> None:
    F, B, W = (time / 2 for time in times)
    pair, fused, stages = F + B + W, B + W, 2 * P
    for batch in (2 * P, 4 * P):
        end = makespan_with_pairs(generate(Order("dualpipe-v"), P, 2, batch), times)
        bubble = end - 2 * batch * pair
        assert bubble == pytest.approx((stages / 2 - 1) * (pair + fused - 3 * W))


def makespan_with_pairs(schedule: Schedule, times: Times) -> float:
    """The makespan if an F and the BW right after it start together and end together."""
    duration = costs(schedule, times).duration
    waiting = [in_pairs(order) for order in schedule.actions]
    clocks = [0.0] * len(waiting)
    ends: dict[Action, float] = {}
    while any(waiting):
        before = len(ends)
        for rank, groups in enumerate(waiting):
            needed = {n for a in groups[0] for n in predecessors(a, schedule)} if groups else set()
            needed -= set(groups[0]) if groups else set()
            if not groups or not needed <= ends.keys():
                continue
            start = max([clocks[rank], *(ends[n] for n in needed)])
            clocks[rank] = start + sum(map(duration, groups[0]))
            ends.update(dict.fromkeys(groups.pop(0), clocks[rank]))
        assert len(ends) > before
    return max(clocks)


def in_pairs(order: tuple[Action, ...]) -> list[tuple[Action, ...]]:
    groups: list[tuple[Action, ...]] = []
    for action in order:
        if action.kind is Kind.BW and groups and groups[-1][-1].kind is Kind.F:
            groups[-1] = (*groups[-1], action)
        else:
            groups.append((action,))
    return groups


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("P", range(1, 9))
def test_complete_and_free_of_deadlock_at_every_size(name: str, P: int) -> None:
    for V in valid_chunks(name):
        for B in range(1, 3 * P + 1):
            schedule = generate(Order(name), P, V, B)
            assert schedule.num_microbatches == B
            assert_complete(schedule)
            timeline(schedule)  # raises DeadlockError


def assert_complete(schedule: Schedule) -> None:
    """Every stage of a rank has F and either B and W or BW once for every micro-batch."""
    for rank, order in enumerate(schedule.actions):
        count = Counter(order)
        seen = {(a.stage, a.microbatch) for a in order}
        stages, batch = schedule.placement.stages_of(rank), range(schedule.num_microbatches)
        assert seen == {(s, m) for s in stages for m in batch}
        assert max(count.values()) == 1
        for s, m in seen:
            has = {kind for kind in Kind if Action(kind, s, m) in count}
            assert has in ({Kind.F, Kind.BW}, {Kind.F, Kind.B, Kind.W})


@pytest.mark.parametrize("name", PEERS)
def test_text_form_reads_back(name: str) -> None:
    schedule = generate(Order(name), 3, valid_chunks(name)[-1], 7)
    assert schedule.name == name
    assert parse(format_schedule(schedule)) == schedule


@pytest.mark.parametrize("name", sorted(GENERATORS))
def test_registry_says_which_chunk_counts_a_schedule_takes(name: str) -> None:
    allowed = GENERATORS[name].chunks
    for V in (1, 2, 3):
        if allowed is None or V in allowed:
            assert generate(Order(name), 2, V, 4).placement.num_chunks == V
        else:
            with pytest.raises(ValueError, match=rf"^num_chunks must be [12] for {name}.*got {V}"):
                generate(Order(name), 2, V, 4)


@pytest.mark.parametrize("name", PEERS)
def test_knobs_of_other_schedules_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"unit_size is not a knob of {name}"):
        generate(Order(name, unit_size=2), 2, valid_chunks(name)[0], 4)


@pytest.mark.parametrize("name", VEES)
@pytest.mark.parametrize("P", [*range(1, 25), 48])
def test_building_blocks_never_put_two_passes_on_one_tick(name: str, P: int) -> None:
    block = VEES[name](P)
    for rank in range(P):
        ticks = block.ticks(P, rank)
        assert len({tick % 6 for tick in ticks.values()}) == 4
        assert ticks[Kind.F, 0] < ticks[Kind.F, 1] < ticks[Kind.B, 1] < ticks[Kind.B, 0]


@pytest.mark.parametrize("name", VEES)
@pytest.mark.parametrize("P", [*range(1, 25), 48])
def test_building_blocks_fit_into_the_slots_that_they_are_squeezed_into(name: str, P: int) -> None:
    slots = {"v-min": 2 * ((P + 4) // 3), "v-half": 2 * ((P + 2) // 2), "zb-v": 2 * P}[name]
    placement, B = Placement(Shape.VEE, P, 2), 2 * P + 6
    pairs = placement.num_stages * B
    for numbers in VEES[name](P).repeat(placement, B):
        assert max(accumulate(1 if number < pairs else -1 for number in numbers)) <= slots


def test_an_order_that_cannot_run_in_so_few_slots_is_none() -> None:
    placement = Placement(Shape.VEE, 4, 2)
    block = BuildingBlock(1, 1).repeat(placement, 8)
    for slots in (1, 2, 3, 4):
        ran = squeeze(Problem(placement, 8, Costs.uniform(4, 2), slots), block)
        assert (ran is None) is (slots < 4)

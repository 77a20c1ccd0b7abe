"""The simulator against evaluation, against sums done by hand, and against itself."""

from dataclasses import fields, replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.sizes import sized
from zeropp.costs import Costs
from zeropp.generate import GENERATORS, generate
from zeropp.ir import Order, evaluate
from zeropp.program.lowering import lower
from zeropp.simulate import simulate

NO_ACTIVATIONS = {"until_backward": 0, "until_weight": 0}


def chunks_of(name: str) -> int:
    allowed = GENERATORS[name].chunks
    return 2 if allowed is None else max(allowed)


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("latency", [0.0, 0.1])
def test_without_traffic_it_equals_evaluation(name: str, latency: float) -> None:
    V = chunks_of(name)
    costs = Costs.uniform(4, V, 1, 1.3, 0.9, latency=latency)
    schedule = generate(Order(name), 4, V, 8)
    report = simulate(lower(schedule, expected=costs.expected(schedule)), costs)
    timeline = evaluate(schedule, costs.duration, latency)
    assert report.makespan == pytest.approx(timeline.makespan)
    assert report.bubble_ratio == pytest.approx(timeline.bubble_ratio)


@pytest.mark.parametrize("name", GENERATORS)
def test_idle_causes_sum_to_all_idle_time(name: str) -> None:
    V = chunks_of(name)
    traffic = {"gather": 0.4, "reduce": 0.6, "transfer": 0.05, "optimizer": 2, "host": 0.01}
    costs = Costs.uniform(4, V, 1, 1, 0.7, latency=0.1, **traffic)
    report = simulate(lower(generate(Order(name), 4, V, 8), "unit", max_resident=1), costs)
    for rank, causes in enumerate(report.run.idle):
        assert min(causes.values()) >= 0
        busy = report.timeline.busy(rank)
        assert busy + sum(causes.values()) == pytest.approx(report.makespan)
    assert report.idle["optimizer"] == 4 * 2
    assert report.idle["gather"] + report.idle["memory"] > 0


@pytest.mark.parametrize("name", GENERATORS)
def test_memory_in_slots_is_the_peak_of_slots(name: str) -> None:
    V = chunks_of(name)
    report = simulate(lower(generate(Order(name), 4, V, 8)), Costs.uniform(4, V))
    assert [memory.peak for memory in report.memory] == list(report.peak_slots)
    assert all(memory.curve[-1][1] == 0 for memory in report.memory)


def test_a_message_keeps_both_of_its_ranks_from_computing() -> None:
    program = lower(generate(Order("1f1b"), 2, 1, 1))
    report = simulate(program, Costs.uniform(2, 1, host=0.5))
    # rank 0: F to 1, sent by 1.5, posted by 2; rank 1: F to 2.5, BW to 4.5, sent by 5
    assert report.makespan == 7
    assert [rank["host"] for rank in report.run.idle] == [1, 1]


def test_one_rank_by_hand() -> None:
    program = lower(generate(Order("gpipe"), 1, 1, 2), "unit")
    report = simulate(program, Costs.uniform(1, 1, gather=3, reduce=5, optimizer=7))
    assert report.makespan == 3 + 2 * 3 + 5 + 7
    assert report.idle == {
        "ramp": 0, "peer": 0, "gather": 3, "memory": 0, "reduce": 5, "tail": 0, "optimizer": 7,
        "host": 0,
    }  # fmt: skip
    assert report.as_dict()["gathers"] == [1]
    assert report.as_dict()["reduces"] == [1]


def test_a_prefetched_gather_hides_behind_compute() -> None:
    schedule = generate(Order("breadth-first"), 1, 2, 4)
    costs = Costs.uniform(1, 2, gather=0.5)
    exposed = simulate(lower(schedule, "unit", max_resident=1), costs)
    hidden = simulate(lower(schedule, "unit", max_resident=2), costs)
    assert (exposed.idle["gather"], exposed.idle["memory"]) == (0.5, 2 * 0.5)
    assert (hidden.idle["gather"], hidden.idle["memory"]) == (0.5, 0)


def test_gathered_and_gradient_bytes_follow_residency_and_unit() -> None:
    costs = Costs.uniform(2, 4, gathered=10, gradients=100, **NO_ACTIVATIONS)
    for B, resident in product((8, 32), (1, 2)):
        schedule = generate(Order("zeropp", unit_size=4, seam="drain"), 2, 4, B)
        report = simulate(lower(schedule, "unit", max_resident=resident), costs)
        for memory in report.memory:
            assert memory.at_peak["gathered"] <= 10 * resident
            assert memory.peak <= 10 * resident + 100 * 3  # of a few chunks, whatever B


def test_bytes_on_the_wire_are_counted() -> None:
    program = lower(generate(Order("gpipe"), 2, 1, 3), "unit")
    costs = Costs.uniform(2, 1, gathered=10, gradients=100, message=1)
    assert simulate(program, costs).wire == (10 + 100 + 3,) * 2


def test_the_longer_channel_delays_its_receiver() -> None:
    program = lower(generate(Order("1f1b"), 2, 1, 1))
    slow = simulate(program, Costs.uniform(2, 1, transfer=2.5))
    assert slow.makespan == simulate(program, Costs.uniform(2, 1)).makespan + 2 * 2.5


@given(st.data())
def test_any_program_simulates(data: st.DataObject) -> None:
    name, P, V, B = data.draw(sized(5, 9))
    times = st.floats(0, 3, allow_nan=False)
    traffic = {name: data.draw(times) for name in ("gather", "reduce", "transfer", "optimizer")}
    passes = data.draw(times) + 0.1, *data.draw(st.tuples(times, times))
    costs = Costs.uniform(P, V, *passes, **traffic)
    policy = data.draw(st.sampled_from([None, "unit", "step", "microbatch"]))
    program = lower(
        generate(Order(name), P, V, B), policy, max_resident=data.draw(st.integers(1, 3))
    )
    report = simulate(program, costs)
    assert report.makespan >= report.floor * (1 - 1e-9)
    assert simulate(program, costs).as_dict() == report.as_dict()
    for memory in report.memory:
        assert min(total for _, total in memory.curve) >= -1e-9


def test_stages_differ_in_time_and_bytes() -> None:
    program = lower(generate(Order("gpipe"), 2, 1, 3), "unit")
    traffic = {"gather": (1, 2), "reduce": (3, 4), "transfer": (0.5, 9), "message": (7, 9)}
    sizes = {"parameters": (1, 2), "gathered": (10, 20), "gradients": (100, 200)}
    report = simulate(program, Costs.uniform(2, 1, **traffic, **sizes))
    assert report.wire == (10 + 100 + 3 * 7, 20 + 200 + 3 * 7)  # both ways what stage 0 puts out
    values = report.as_dict()
    assert values["stage_gather_time"] == (1, 2)
    assert values["stage_gather_bytes"] == (10, 20)
    assert values["stage_reduce_time"] == (3, 4)
    assert values["stage_reduce_bytes"] == (100, 200)
    assert [memory.at_peak["parameters"] for memory in report.memory] == [1, 2]
    transfers = [s for rank in report.run.spans for s in rank if "SEND" in s.action.kind]
    assert {round(s.end - s.start, 9) for s in transfers} == {0.5}


def test_equal_stages_as_tuples_are_as_numbers() -> None:
    program = lower(generate(Order("zeropp", unit_size=4), 2, 2, 8), "unit")
    numbers = {field.name: float(n) for n, field in enumerate(fields(Costs)) if n > 5}
    one = simulate(program, Costs.uniform(2, 2, **numbers))
    listed = {name: tuple(number for _ in range(4)) for name, number in numbers.items()}
    other = simulate(program, Costs.uniform(2, 2, **listed))
    assert len(listed) == 14
    assert one.costs == other.costs
    assert one.as_dict() == other.as_dict()
    assert one.memory == other.memory


def test_costs_of_another_number_of_stages_are_refused() -> None:
    with pytest.raises(ValueError, match="costs must list 2 stages"):
        simulate(lower(generate(Order("gpipe"), 2, 1, 2)), Costs.uniform(3, 1))


def test_flat_buffers_of_collectives_are_held_until_copied_out() -> None:
    """UNSHARD 0-3 | F 3-4 BW 4-6 | REDUCE 6-11: the gather's buffer until F, the reduce's after."""
    program = lower(generate(Order("gpipe"), 1, 1, 1), "unit")
    costs = Costs.uniform(
        1, 1, gather=3, reduce=5, gather_staging=10, reduce_staging=100, **NO_ACTIVATIONS
    )
    (memory,) = simulate(program, costs).memory
    assert memory.curve == ((0, 10), (3, 0), (6, 100), (11, 0))
    assert memory.at_peak["staging"] == 100


def test_a_prefetched_gather_keeps_its_buffer_until_its_first_use() -> None:
    program = lower(generate(Order("breadth-first"), 1, 2, 2), "unit", max_resident=2, prefetch=1)
    costs = Costs.uniform(1, 2, gather_staging=(1, 10), **NO_ACTIVATIONS)
    (memory,) = simulate(program, costs).memory
    assert memory.curve[:3] == ((0, 0), (0.5, 10), (1, 0))


def test_what_a_gather_needs_while_it_runs_is_free_before_its_first_use() -> None:
    """UNSHARD 0-0.25 of stage 0, 0.25-0.5 of stage 1, whose F is from 1.25 on."""
    program = lower(generate(Order("breadth-first"), 1, 2, 2), "unit", max_resident=2)
    costs = Costs.uniform(1, 2, gather=0.25, gather_workspace=(1, 10), **NO_ACTIVATIONS)
    (memory,) = simulate(program, costs).memory
    assert memory.curve == ((0, 1), (0.25, 10), (0.5, 0))


def test_a_rank_reserves_the_largest_workspace_of_its_stages() -> None:
    program = lower(generate(Order("interleaved-1f1b"), 2, 2, 4))
    report = simulate(program, Costs.uniform(2, 2, workspace=(1, 2, 3, 1)))
    assert [memory.at_peak["workspace"] for memory in report.memory] == [3, 2]


def test_rounding_of_times_changes_no_peak() -> None:
    """A gather ends where an action begins, by two sums of floats: its buffer is freed first."""
    program = lower(
        generate(Order("zeropp", unit_size=4, seam="drain"), 2, 3, 128), "unit", max_resident=1
    )
    sizes = {"gathered": 8, "gradients": 8, "gather_staging": 18, "reduce_staging": 22}
    costs = Costs((0.012,) * 6, (0.012,) * 6, (0.012,) * 6, **sizes)
    peaks = {
        memory.peak
        for gather, reduce in ((0.0185, 0.0288), (0.01850225494427372, 0.028761973654980167))
        for memory in simulate(program, replace(costs, gather=gather, reduce=reduce)).memory
    }
    assert len(peaks) == 1

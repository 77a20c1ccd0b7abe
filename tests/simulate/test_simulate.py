"""The simulator against evaluation, against sums done by hand, and against itself."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.sizes import sized
from zeropp.costs import Bytes, Costs, Traffic
from zeropp.generate import GENERATORS, generate
from zeropp.ir import Order, evaluate
from zeropp.program.lowering import lower
from zeropp.simulate import simulate

SPLIT = Bytes(until_backward=1, until_weight=1)


def chunks_of(name: str) -> int:
    allowed = GENERATORS[name].chunks
    return 2 if allowed is None else max(allowed)


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("latency", [0.0, 0.1])
def test_without_traffic_it_equals_evaluation(name: str, latency: float) -> None:
    V = chunks_of(name)
    costs = Costs.uniform(4, V, 1, 1.3, 0.9, latency=latency)
    schedule = generate(Order(name), 4, V, 8)
    report = simulate(lower(schedule), costs)
    timeline = evaluate(schedule, costs.duration, latency)
    assert report.makespan == pytest.approx(timeline.makespan)
    assert report.bubble_ratio == pytest.approx(timeline.bubble_ratio)


@pytest.mark.parametrize("name", GENERATORS)
def test_idle_causes_sum_to_all_idle_time(name: str) -> None:
    V = chunks_of(name)
    costs = Costs.uniform(4, V, 1, 1, 0.7, latency=0.1)
    traffic = Traffic(gather=0.4, reduce=0.6, transfer=0.05, optimizer=2, host=0.01)
    report = simulate(lower(generate(Order(name), 4, V, 8), "unit", max_resident=1), costs, traffic)
    for rank, causes in enumerate(report.run.idle):
        assert min(causes.values()) >= 0
        busy = report.timeline.busy(rank)
        assert busy + sum(causes.values()) == pytest.approx(report.makespan)
    assert report.idle["optimizer"] == 4 * 2
    assert report.idle["gather"] + report.idle["memory"] > 0


@pytest.mark.parametrize("name", GENERATORS)
def test_memory_in_slots_is_the_peak_of_slots(name: str) -> None:
    V = chunks_of(name)
    report = simulate(lower(generate(Order(name), 4, V, 8)), Costs.uniform(4, V), sizes=SPLIT)
    assert [memory.peak for memory in report.memory] == list(report.peak_slots)
    assert all(memory.curve[-1][1] == 0 for memory in report.memory)


def test_a_message_keeps_both_of_its_ranks_from_computing() -> None:
    program = lower(generate(Order("1f1b"), 2, 1, 1))
    report = simulate(program, Costs.uniform(2, 1), Traffic(host=0.5))
    # rank 0: posted by 0.5, F to 1.5, sent by 2; rank 1: F to 3, BW to 5, sent by 5.5
    assert report.makespan == 7.5
    assert [rank["host"] for rank in report.run.idle] == [1, 1]


def test_one_rank_by_hand() -> None:
    program = lower(generate(Order("gpipe"), 1, 1, 2), "unit")
    traffic = Traffic(gather=3, reduce=5, optimizer=7)
    report = simulate(program, Costs.uniform(1, 1), traffic)
    assert report.makespan == 3 + 2 * 3 + 5 + 7
    assert report.idle == {
        "ramp": 0, "peer": 0, "gather": 3, "memory": 0, "reduce": 5, "tail": 0, "optimizer": 7,
        "host": 0,
    }  # fmt: skip
    assert report.as_dict()["gathers"] == [1]
    assert report.as_dict()["reduces"] == [1]


def test_a_prefetched_gather_hides_behind_compute() -> None:
    schedule = generate(Order("breadth-first"), 1, 2, 4)
    costs, traffic = Costs.uniform(1, 2), Traffic(gather=0.5)
    exposed = simulate(lower(schedule, "unit", max_resident=1), costs, traffic)
    hidden = simulate(lower(schedule, "unit", max_resident=2), costs, traffic)
    assert (exposed.idle["gather"], exposed.idle["memory"]) == (0.5, 2 * 0.5)
    assert (hidden.idle["gather"], hidden.idle["memory"]) == (0.5, 0)


def test_gathered_and_gradient_bytes_follow_residency_and_unit() -> None:
    sizes = Bytes(gathered=10, gradients=100, until_backward=0, until_weight=0)
    for B, resident in product((8, 32), (1, 2)):
        schedule = generate(Order("zeropp", unit_size=4, seam="drain"), 2, 4, B)
        report = simulate(
            lower(schedule, "unit", max_resident=resident), Costs.uniform(2, 4), sizes=sizes
        )
        for memory in report.memory:
            assert memory.at_peak["gathered"] <= 10 * resident
            assert memory.peak <= 10 * resident + 100 * 3  # of a few chunks, whatever B


def test_bytes_on_the_wire_are_counted() -> None:
    program = lower(generate(Order("gpipe"), 2, 1, 3), "unit")
    sizes = Bytes(gathered=10, gradients=100, message=1)
    assert simulate(program, Costs.uniform(2, 1), sizes=sizes).wire == (10 + 100 + 3,) * 2


def test_the_longer_channel_delays_its_receiver() -> None:
    program, costs = lower(generate(Order("1f1b"), 2, 1, 1)), Costs.uniform(2, 1)
    slow = simulate(program, costs, Traffic(transfer=2.5))
    assert slow.makespan == simulate(program, costs).makespan + 2 * 2.5


@given(st.data())
def test_any_program_simulates(data: st.DataObject) -> None:
    name, P, V, B = data.draw(sized(5, 9))
    times = st.floats(0, 3, allow_nan=False)
    costs = Costs.uniform(P, V, data.draw(times) + 0.1, *data.draw(st.tuples(times, times)))
    traffic = Traffic(*data.draw(st.tuples(times, times, times, times)))
    policy = data.draw(st.sampled_from([None, "unit", "step", "microbatch"]))
    program = lower(
        generate(Order(name), P, V, B), policy, max_resident=data.draw(st.integers(1, 3))
    )
    report = simulate(program, costs, traffic)
    assert report.makespan >= report.floor * (1 - 1e-9)
    assert simulate(program, costs, traffic).as_dict() == report.as_dict()
    for memory in report.memory:
        assert min(total for _, total in memory.curve) >= -1e-9


def test_bad_numbers_name_their_field() -> None:
    with pytest.raises(ValueError, match="traffic: gather must be"):
        Traffic(gather=-1)
    with pytest.raises(ValueError, match="bytes: message must be"):
        Bytes(message=float("nan"))


def test_stages_differ_in_time_and_bytes() -> None:
    program = lower(generate(Order("gpipe"), 2, 1, 3), "unit")
    traffic = Traffic(gather=(1, 2), reduce=(3, 4), transfer=(0.5, 9))
    sizes = Bytes(parameters=(1, 2), gathered=(10, 20), gradients=(100, 200), message=(7, 9))
    report = simulate(program, Costs.uniform(2, 1), traffic, sizes)
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
    costs, four = Costs.uniform(2, 2), range(4)
    one = simulate(program, costs, Traffic(0.2, 0.3, 0.1), Bytes(1, 2, 3, 4, 5, 6, 7, 8, 9, 10))
    listed = [tuple(float(n) for _ in four) for n in range(1, 11)]
    traffic = Traffic(*(tuple(t for _ in four) for t in (0.2, 0.3, 0.1)))
    other = simulate(program, costs, traffic, Bytes(*listed))
    assert one.as_dict() == other.as_dict()
    assert one.memory == other.memory


def test_lists_for_another_number_of_stages_are_refused() -> None:
    program, costs = lower(generate(Order("gpipe"), 2, 1, 2)), Costs.uniform(2, 1)
    with pytest.raises(ValueError, match="traffic: reduce must list 2 stages"):
        simulate(program, costs, Traffic(reduce=(1, 2, 3)))
    with pytest.raises(ValueError, match="bytes: message must list 2 stages"):
        simulate(program, costs, sizes=Bytes(message=(1.0,)))


def test_flat_buffers_of_collectives_are_held_until_copied_out() -> None:
    """UNSHARD 0-3 | F 3-4 BW 4-6 | REDUCE 6-11: the gather's buffer until F, the reduce's after."""
    program = lower(generate(Order("gpipe"), 1, 1, 1), "unit")
    sizes = Bytes(until_backward=0, until_weight=0, gather_staging=10, reduce_staging=100)
    (memory,) = simulate(program, Costs.uniform(1, 1), Traffic(3, 5), sizes).memory
    assert memory.curve == ((0, 10), (3, 0), (6, 100), (11, 0))
    assert memory.at_peak["staging"] == 100


def test_a_prefetched_gather_keeps_its_buffer_until_its_first_use() -> None:
    program = lower(generate(Order("breadth-first"), 1, 2, 2), "unit", max_resident=2, prefetch=1)
    sizes = Bytes(until_backward=0, until_weight=0, gather_staging=(1, 10))
    (memory,) = simulate(program, Costs.uniform(1, 2), sizes=sizes).memory
    assert memory.curve[:3] == ((0, 0), (0.5, 10), (1, 0))


def test_a_rank_reserves_the_largest_workspace_of_its_stages() -> None:
    program = lower(generate(Order("interleaved-1f1b"), 2, 2, 4))
    report = simulate(program, Costs.uniform(2, 2), sizes=Bytes(workspace=(1, 2, 3, 1)))
    assert [memory.at_peak["workspace"] for memory in report.memory] == [3, 2]


def test_rounding_of_times_changes_no_peak() -> None:
    """A gather ends where an action begins, by two sums of floats: its buffer is freed first."""
    program = lower(
        generate(Order("zeropp", unit_size=4, seam="drain"), 2, 3, 128),
        "unit",
        max_resident=1,
    )
    costs = Costs((0.012,) * 6, (0.012,) * 6, (0.012,) * 6)
    sizes = Bytes(gathered=8, gradients=8, gather_staging=18, reduce_staging=22)
    peaks = {
        memory.peak
        for gather, reduce in ((0.0185, 0.0288), (0.01850225494427372, 0.028761973654980167))
        for memory in simulate(program, costs, Traffic(gather, reduce), sizes).memory
    }
    assert len(peaks) == 1

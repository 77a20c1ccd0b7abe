"""Traces: what Perfetto needs to show them, and arrows exactly where ranks feed each other."""

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from zeropp.ir import Kind, Placement, Shape, Timeline
from zeropp.show import trace_events, write_trace

Make = Callable[..., Timeline]
Event = dict[str, Any]


def of_phase(trace: dict[str, Any], phase: str) -> list[Event]:
    return [event for event in trace["traceEvents"] if event["ph"] == phase]


def names(trace: dict[str, Any], what: str) -> dict[int, str]:
    """Thread or process id -> name."""
    key = "pid" if what == "process_name" else "tid"
    return {e[key]: e["args"]["name"] for e in of_phase(trace, "M") if e["name"] == what}


def arrows(trace: dict[str, Any]) -> list[tuple[Event, Event]]:
    """The two boxes that each arrow joins: the one it starts in and the one it ends at."""
    ends = {event["id"]: event for event in of_phase(trace, "f")}
    starts = {event["id"]: event for event in of_phase(trace, "s")}
    assert ends.keys() == starts.keys()
    assert len(ends) == len(of_phase(trace, "f")) == len(of_phase(trace, "s"))
    boxes = of_phase(trace, "X")

    def box_at(event: Event) -> Event:
        (found,) = (
            box
            for box in boxes
            if box["tid"] == event["tid"] and box["ts"] <= event["ts"] < box["ts"] + box["dur"]
        )
        return found

    return [(box_at(starts[i]), box_at(ends[i])) for i in starts]


def assert_no_overlap(trace: dict[str, Any]) -> None:
    threads: dict[int, list[Event]] = defaultdict(list)
    for event in of_phase(trace, "X"):
        assert event["dur"] > 0
        threads[event["tid"]].append(event)
    for boxes in threads.values():
        boxes.sort(key=lambda box: box["ts"])
        for one, other in pairwise(boxes):
            assert one["ts"] + one["dur"] <= other["ts"] + 1e-6


def test_boxes_carry_the_actions(make: Make) -> None:
    timeline = make("zeropp", 2, 2, 3)
    trace = trace_events(timeline)
    threads = names(trace, "thread_name")
    boxes = of_phase(trace, "X")
    assert sorted(threads.values()) == ["rank 0", "rank 1"]
    for rank, spans in enumerate(timeline.spans):
        shown = [box for box in boxes if threads[box["tid"]] == f"rank {rank}"]
        assert [box["name"] for box in shown] == [str(span.action) for span in spans]
        assert [box["ts"] for box in shown] == pytest.approx([s.start * 1000 for s in spans])
        assert all(box["dur"] == pytest.approx(500) for box in shown)
    last = next(box for box in boxes if box["name"] == "3B1")
    assert last["cat"] == "B"
    assert last["args"] == {"stage": 3, "chunk": 1, "microbatch": 1}
    assert list(names(trace, "process_name").values()) == ["zeropp (1 f shown as 1 ms)"]


@pytest.mark.parametrize("name", ["zeropp", "interleaved-1f1b"])
def test_arrows_follow_the_micro_batches_across_ranks(make: Make, name: str) -> None:
    trace = trace_events(make(name, 4, 2, 4))
    joined = arrows(trace)
    assert len(joined) == 2 * 7 * 4  # each of 4 micro-batches crosses 7 borders, there and back
    for source, target in joined:
        a, b = source["args"], target["args"]
        assert source["tid"] != target["tid"]
        assert a["microbatch"] == b["microbatch"]
        forward = source["cat"] == "F"
        assert source["cat"] == target["cat"]
        assert b["stage"] == a["stage"] + (1 if forward else -1)


def test_no_arrow_where_neighbour_stages_share_a_rank(make: Make) -> None:
    assert not arrows(trace_events(make("zeropp", 1, 3, 2)))
    vee = Placement(Shape.VEE, 2, 2)
    timeline = make("zeropp", 2, 2, 2)
    moved: list[list[Any]] = [[], []]
    for span in sorted((s for r in timeline.spans for s in r), key=lambda s: s.start):
        rank = vee.rank_of(span.action.stage)
        start = max(span.start, moved[rank][-1].end if moved[rank] else 0.0)
        moved[rank].append(span._replace(start=start, end=start + 0.5))
    trace = trace_events(Timeline("vee", vee, tuple(map(tuple, moved))))
    starts = of_phase(trace, "s")
    assert len(starts) == 2 * 2 * 2  # stages 1 and 2 are neighbours on rank 1


def test_collectives_and_messages_have_threads_of_their_own(with_communication: Timeline) -> None:
    trace = trace_events(with_communication)
    assert_no_overlap(trace)
    threads = names(trace, "thread_name")
    where = {box["name"]: threads[box["tid"]] for box in of_phase(trace, "X")}
    assert where["0UNSHARD"] == where["2UNSHARD"] == where["0REDUCE"] == "rank 0 collectives"
    assert where["0SEND_F0"] == where["2RECV_F0"] == "rank 0 p2p"
    assert "0RESHARD" not in where  # takes no time here
    gather = next(box for box in of_phase(trace, "X") if box["name"] == "2UNSHARD")
    assert gather["cat"] == Kind.UNSHARD.value
    assert gather["args"] == {"stage": 2, "chunk": 1}


def test_measured_times_start_at_zero_in_microseconds(measured: Timeline) -> None:
    trace = trace_events(measured)
    assert_no_overlap(trace)
    boxes = of_phase(trace, "X")
    assert min(box["ts"] for box in boxes) == 0.0
    end = max(box["ts"] + box["dur"] for box in boxes)
    assert end == pytest.approx(1000 * measured.makespan, abs=0.01)
    assert list(names(trace, "process_name").values()) == ["measured"]
    arrows(trace)


def test_a_file_holds_a_process_per_timeline(
    make: Make, measured: Timeline, tmp_path: Path
) -> None:
    path = tmp_path / "trace.json"
    predicted = replace(make("zeropp", 4, 2, 4), title="predicted")
    write_trace([predicted, measured], path)
    trace = json.loads(path.read_text())
    processes = names(trace, "process_name")
    assert list(processes.values()) == ["predicted (1 f shown as 1 ms)", "measured"]
    assert_no_overlap(trace)
    assert all(source["pid"] == target["pid"] for source, target in arrows(trace))
    threads = {(event["pid"], event["tid"]) for event in of_phase(trace, "X")}
    assert len({tid for _, tid in threads}) == len(threads) == 8


def test_a_partial_timeline_has_the_arrows_that_it_can(make: Make) -> None:
    whole = make("1f1b", 3, 1, 2)
    some = Timeline("some", whole.placement, ((), *whole.spans[1:]))
    assert len(arrows(trace_events(some))) == 2 * 2

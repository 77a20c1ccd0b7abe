"""Traces: timelines as Chrome trace JSON, which https://ui.perfetto.dev opens.

process   one per timeline, named by its title
thread    "rank p" for compute, "rank p collectives" and "rank p p2p" where there are any
event     one per span that takes time, named like the action
arrow     where an action's input comes from another rank: F(s,m) -> F(s+1,m) and
          backward(s+1,m) -> backward(s,m)
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from zeropp.ir.action import Kind
from zeropp.ir.timeline import Span, Timeline
from zeropp.show.caption import bubble_ratio, makespan, sizes
from zeropp.show.lanes import lanes_of, start_of

Event = dict[str, Any]

_MICROSECONDS: Mapping[str, float] = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}
_PER_UNIT = 1e3  # microseconds that stand for one of any other unit, such as one f


def trace_events(timeline: Timeline) -> dict[str, Any]:
    """One timeline as a Chrome trace (JSON object format), starting at 0.

    Times are microseconds; where the timeline's unit is none of s, ms, us and ns, one unit is shown
    as 1 ms, and the process is named so.

    Raises:
        ValueError: a timeline that takes no time.
    """
    return _trace([timeline])


def write_trace(timelines: Sequence[Timeline], path: str | Path) -> None:
    """Write `timelines` as one trace, a process each.

    Raises:
        ValueError: a timeline that takes no time.
    """
    Path(path).write_text(json.dumps(_trace(timelines)) + "\n", encoding="utf-8")


def _trace(timelines: Sequence[Timeline]) -> dict[str, Any]:
    numbers = count(1)  # one supply for processes, threads and arrows: all are unique in a trace
    events = [e for timeline in timelines for e in _Process(timeline, numbers).events()]
    return {"traceEvents": events, "displayTimeUnit": "ms"}


class _Process:
    """One timeline's events; `numbers` supplies ids that no other process has."""

    def __init__(self, timeline: Timeline, numbers: Iterator[int]) -> None:
        self.timeline, self.numbers = timeline, numbers
        self.pid = next(numbers)
        self.start = start_of(timeline)
        self.factor = _MICROSECONDS.get(timeline.unit, _PER_UNIT)
        self.lanes = [lanes_of(spans) for spans in timeline.spans]

    def events(self) -> Iterator[Event]:
        """Names first, then every thread's boxes, then the arrows between them."""
        yield from self._names()
        threads: list[int] = []
        for rank, lanes in enumerate(self.lanes):
            threads.append(next(self.numbers))
            yield from self._thread(threads[rank], f"rank {rank}", lanes.compute)
            for name, rows in (("collectives", lanes.collectives), ("p2p", lanes.p2p)):
                for row in rows:
                    yield from self._thread(next(self.numbers), f"rank {rank} {name}", row)
        yield from self._arrows(threads)

    def _names(self) -> Iterator[Event]:
        timeline = self.timeline
        scale = "" if timeline.unit in _MICROSECONDS else f" (1 {timeline.unit} shown as 1 ms)"
        labels = ", ".join((sizes(timeline), makespan(timeline), bubble_ratio(timeline)))
        yield self._metadata(self.pid, "process_name", name=timeline.title + scale)
        yield self._metadata(self.pid, "process_labels", labels=labels)
        yield self._metadata(self.pid, "process_sort_index", sort_index=self.pid)

    def _metadata(self, thread: int, what: str, **args: Any) -> Event:
        return {"name": what, "ph": "M", "pid": self.pid, "tid": thread, "args": args}

    def _thread(self, thread: int, name: str, spans: Sequence[Span]) -> Iterator[Event]:
        yield self._metadata(thread, "thread_name", name=name)
        yield self._metadata(thread, "thread_sort_index", sort_index=thread)
        yield from (self._box(span, thread) for span in spans if span.end > span.start)

    def _box(self, span: Span, thread: int) -> Event:
        action = span.action
        chunk = self.timeline.placement.chunk_of(action.stage)
        args = {"stage": action.stage, "chunk": chunk}
        if action.microbatch is not None:
            args["microbatch"] = action.microbatch
        start, end = self._time(span.start), self._time(span.end)
        event = {"name": str(action), "cat": action.kind.value, "ph": "X"}
        place = {"pid": self.pid, "tid": thread, "ts": start, "dur": round(end - start, 3)}
        return {**event, **place, "args": args}

    def _time(self, time: float) -> float:
        """Microseconds from the timeline's start, in whole nanoseconds."""
        return round((time - self.start) * self.factor, 3)

    def _arrows(self, threads: Sequence[int]) -> Iterator[Event]:
        boxes = {
            (span.action.kind is Kind.F, span.action.stage, span.action.microbatch): (thread, span)
            for thread, lanes in zip(threads, self.lanes, strict=True)
            for span in lanes.compute
            if span.action.kind is not Kind.W and span.end > span.start
        }
        for (forward, stage, microbatch), (thread, span) in boxes.items():
            before = forward, stage - 1 if forward else stage + 1, microbatch
            source, made = boxes.get(before, (thread, span))
            if source != thread:
                arrow = {"name": "input", "cat": "input", "id": next(self.numbers), "pid": self.pid}
                # from inside the box, since its end may already be the next action's start
                middle, start = self._time((made.start + made.end) / 2), self._time(span.start)
                yield {**arrow, "ph": "s", "tid": source, "ts": middle}
                yield {**arrow, "ph": "f", "bp": "e", "tid": thread, "ts": start}

"""Traces: timelines as Chrome trace JSON, which https://ui.perfetto.dev opens.

process   one per timeline, named by its title
thread    "rank p" for compute, "rank p collectives" and "rank p p2p" where there are any
event     one per span that takes time, named like the action
arrow     where an action's input comes from another rank: F(s,m) -> F(s+1,m) and
          backward(s+1,m) -> backward(s,m)
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

from zeropp.ir.action import COMPUTE
from zeropp.ir.precedence import predecessors
from zeropp.ir.schedule import Schedule
from zeropp.ir.timeline import Span, Timeline
from zeropp.show.caption import bubble_ratio, makespan, sizes
from zeropp.show.lanes import lanes_of, start_of

Event = dict[str, Any]

_MICROSECONDS: Mapping[str, float] = MappingProxyType({"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3})
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


@dataclass(frozen=True)
class _Place:
    """Where a compute action is in the trace."""

    rank: int
    thread: int
    start: float
    end: float


class _Process:
    """One timeline's events; `numbers` supplies ids that no other process has."""

    def __init__(self, timeline: Timeline, numbers: Iterator[int]) -> None:
        self.timeline, self.numbers = timeline, numbers
        self.pid = next(numbers)
        self.start = start_of(timeline)
        self.factor = _MICROSECONDS.get(timeline.unit, _PER_UNIT)

    def events(self) -> Iterator[Event]:
        """Names first, then every thread's boxes, then the arrows between them."""
        yield from self._process_names()
        threads: list[int] = []
        for rank, spans in enumerate(self.timeline.spans):
            lanes = lanes_of(spans)
            threads.append(next(self.numbers))
            yield from self._thread(threads[rank], f"rank {rank}", lanes.compute)
            for name, rows in (("collectives", lanes.collectives), ("p2p", lanes.p2p)):
                for row in rows:
                    yield from self._thread(next(self.numbers), f"rank {rank} {name}", row)
        yield from self._arrows(threads)

    def _process_names(self) -> Iterator[Event]:
        timeline = self.timeline
        scale = "" if timeline.unit in _MICROSECONDS else f" (1 {timeline.unit} shown as 1 ms)"
        labels = ", ".join((sizes(timeline), makespan(timeline), bubble_ratio(timeline)))
        yield self._metadata(self.pid, "process_name", {"name": timeline.title + scale})
        yield self._metadata(self.pid, "process_labels", {"labels": labels})
        yield self._metadata(self.pid, "process_sort_index", {"sort_index": self.pid})

    def _metadata(self, thread: int, name: str, args: Event) -> Event:
        return {"name": name, "ph": "M", "pid": self.pid, "tid": thread, "args": args}

    def _thread(self, thread: int, name: str, spans: Sequence[Span]) -> Iterator[Event]:
        yield self._metadata(thread, "thread_name", {"name": name})
        yield self._metadata(thread, "thread_sort_index", {"sort_index": thread})
        yield from (self._event(span, thread) for span in spans if span.end > span.start)

    def _event(self, span: Span, thread: int) -> Event:
        action = span.action
        chunk = self.timeline.placement.chunk_of(action.stage)
        args = {"stage": action.stage, "chunk": chunk}
        if action.microbatch is not None:
            args["microbatch"] = action.microbatch
        start, end = self._time(span.start), self._time(span.end)
        return {
            "name": str(action),
            "cat": action.kind.value,
            "ph": "X",
            "pid": self.pid,
            "tid": thread,
            "ts": start,
            "dur": round(end - start, 3),
            "args": args,
        }

    def _time(self, time: float) -> float:
        """Microseconds from the timeline's start, in whole nanoseconds."""
        return round((time - self.start) * self.factor, 3)

    def _arrows(self, threads: Sequence[int]) -> Iterator[Event]:
        schedule = _schedule_of(self.timeline)
        places = {
            span.action: _Place(rank, threads[rank], span.start, span.end)
            for rank, spans in enumerate(self.timeline.spans)
            for span in spans
            if span.action.kind in COMPUTE and span.end > span.start
        }
        for action, place in places.items():
            for needed in predecessors(action, schedule):
                source = places.get(needed)
                if source is not None and source.rank != place.rank:
                    yield from self._arrow(source, place)

    def _arrow(self, source: _Place, target: _Place) -> Iterator[Event]:
        """From inside the source's box, since its end may already be the next action's start."""
        common = {"name": "input", "cat": "input", "id": next(self.numbers), "pid": self.pid}
        middle = self._time((source.start + source.end) / 2)
        yield {**common, "ph": "s", "tid": source.thread, "ts": middle}
        yield {**common, "ph": "f", "bp": "e", "tid": target.thread, "ts": self._time(target.start)}


def _schedule_of(timeline: Timeline) -> Schedule:
    """The compute order that the timeline shows, which is what precedence is defined over."""
    actions = tuple(tuple(span.action for span in lanes_of(s).compute) for s in timeline.spans)
    microbatches = [a.microbatch for order in actions for a in order if a.microbatch is not None]
    units = (1 + max(microbatches, default=0),)
    return Schedule(timeline.title, timeline.placement, units, actions)

"""Traces: timelines as Chrome trace JSON, which https://ui.perfetto.dev opens.

process   one per timeline, named by its title
thread    "rank p" for compute, "rank p collectives" and "rank p p2p" where there are any
event     one per span that takes time, named like the action
arrow     where an action's input comes from another rank
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from zeropp.ir.files import write_text
from zeropp.ir.precedence import incoming, other_end, outgoing
from zeropp.ir.timeline import Span, Timeline
from zeropp.show.parts import figures, rows_of, start_of

Event = dict[str, Any]

_MICROSECONDS: Mapping[str, float] = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}
_PER_UNIT = 1e3  # microseconds that stand for one of any other unit, such as one f


def trace_events(*timelines: Timeline) -> dict[str, Any]:
    """Timelines as one Chrome trace (JSON object format), a process each, starting at 0.

    Times are microseconds; where the timeline's unit is none of s, ms, us and ns, one unit is shown
    as 1 ms, and the process is named so.

    Raises:
        ValueError: a timeline that takes no time.
    """
    numbers = count(1)  # one supply for processes, threads and arrows: all are unique in a trace
    events = [e for timeline in timelines for e in _Process(timeline, numbers).events()]
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def write_trace(timelines: Sequence[Timeline], path: str | Path) -> None:
    """Write what `trace_events` makes of `timelines`."""
    write_text("output", Path(path), json.dumps(trace_events(*timelines)) + "\n")


class _Process:
    """One timeline's events; `numbers` supplies ids that no other process has."""

    def __init__(self, timeline: Timeline, numbers: Iterator[int]) -> None:
        self.timeline, self.numbers = timeline, numbers
        self.pid = next(numbers)
        self.start = start_of(timeline)
        self.factor = _MICROSECONDS.get(timeline.unit, _PER_UNIT)

    def events(self) -> Iterator[Event]:
        """Names first, then every thread's boxes, then the arrows between them."""
        yield from self._names()
        computed: list[tuple[int, Span]] = []
        for rank, lane, spans in rows_of(self.timeline):
            thread, name = next(self.numbers), f"rank {rank}"
            boxes = [span for span in spans if span.end > span.start]
            if lane == "compute":
                computed += [(thread, span) for span in boxes]
            else:
                name += f" {lane}"
            yield self._metadata(thread, "thread_name", name=name)
            yield self._metadata(thread, "thread_sort_index", sort_index=thread)
            yield from (self._box(thread, span) for span in boxes)
        yield from self._arrows(computed)

    def _names(self) -> Iterator[Event]:
        timeline = self.timeline
        scale = "" if timeline.unit in _MICROSECONDS else f" (1 {timeline.unit} shown as 1 ms)"
        labels = ", ".join(figures(timeline))
        yield self._metadata(self.pid, "process_name", name=timeline.title + scale)
        yield self._metadata(self.pid, "process_labels", labels=labels)
        yield self._metadata(self.pid, "process_sort_index", sort_index=self.pid)

    def _metadata(self, thread: int, what: str, **args: Any) -> Event:
        return {"name": what, "ph": "M", "pid": self.pid, "tid": thread, "args": args}

    def _box(self, thread: int, span: Span) -> Event:
        action, begin = span.action, self._time(span.start)
        args = {"stage": action.stage, "chunk": self.timeline.placement.chunk_of(action.stage)}
        if action.microbatch is not None:
            args["microbatch"] = action.microbatch
        event = {"name": str(action), "cat": action.kind.value, "ph": "X", "pid": self.pid}
        times = {"ts": begin, "dur": round(self._time(span.end) - begin, 3)}
        return {**event, "tid": thread, **times, "args": args}

    def _time(self, time: float) -> float:
        """Microseconds from the timeline's start, in whole nanoseconds."""
        return round((time - self.start) * self.factor, 3)

    def _arrows(self, computed: Sequence[tuple[int, Span]]) -> Iterator[Event]:
        placement = self.timeline.placement
        sent = {outgoing(span.action, placement): (thread, span) for thread, span in computed}
        for thread, span in computed:
            receive = incoming(span.action, placement)
            if receive is None or (send := other_end(receive)) not in sent:
                continue
            source, made = sent[send]
            arrow = {"name": "input", "cat": "input", "id": next(self.numbers), "pid": self.pid}
            # from inside the box, since its end may already be the next action's start
            middle, start = self._time((made.start + made.end) / 2), self._time(span.start)
            yield {**arrow, "ph": "s", "tid": source, "ts": middle}
            yield {**arrow, "ph": "f", "bp": "e", "tid": thread, "ts": start}

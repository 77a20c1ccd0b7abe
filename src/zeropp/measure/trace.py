"""Measuring steps: when every compute action ran, why ranks were idle, what each stage takes.

    phases of an action     BEGIN    INPUT          PARAMETERS     COMPUTE
                              |  peer  |   gather       |   work      |
    idle time               host: from one action's COMPUTE to the next one's BEGIN

Times come from the device: events on a GPU's stream, the clock on a CPU. Nothing waits for the
device before the step is over.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from zeropp.costs import Costs
from zeropp.ir import Action, Kind, Placement, Schedule, Span, Timeline, evaluate
from zeropp.ir.cause import Cause
from zeropp.runtime.executor import Phase
from zeropp.runtime.mesh import gathered

Marks = list[tuple[Action, Phase, float]]
Medians = dict[tuple[Kind, int], float]

_MS = 1e3


class Clock:
    """Marks moments; how far they are apart is known once they are settled. This one is a CPU's."""

    def now(self) -> Any:
        """This moment, as the device will come to it."""
        return time.perf_counter()

    def settle(self) -> None:
        """Wait until every moment asked for is known."""

    def seconds(self, start: Any, end: Any) -> float:
        """Between two moments."""
        return float(end - start)


class _StreamClock(Clock):
    """Events on the current stream of a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def now(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def settle(self) -> None:
        torch.cuda.synchronize(self._device)

    def seconds(self, start: Any, end: Any) -> float:
        return float(start.elapsed_time(end)) / 1e3


def clock_of(device: torch.device) -> Clock:
    """The clock of a device."""
    return _StreamClock(device) if device.type == "cuda" else Clock()


@dataclass(frozen=True)
class Measured:
    """One measured step, in ms: compute spans of all ranks of a pipeline, and idle time by cause.

    On every rank both sum to the makespan.
    """

    timeline: Timeline
    idle: tuple[Mapping[Cause, float], ...]

    def idle_ratios(self) -> dict[str, float]:
        """Idle time of all ranks by cause / (P x makespan); causes that took time."""
        total = len(self.idle) * self.timeline.makespan
        sums = {cause: sum(rank[cause] for rank in self.idle) for cause in Cause}
        return {str(cause): time / total for cause, time in sums.items() if time}


class _Recorder:
    """Marks the end of every phase, on the device's clock."""

    def __init__(self, device: torch.device) -> None:
        self._clock = clock_of(device)
        self._marks: list[tuple[Action, Phase, Any]] = []

    def observe(self, action: Action, phase: Phase) -> None:
        """Record that `phase` of `action` ends now."""
        self._marks.append((action, phase, self._clock.now()))


class Trace(_Recorder):
    """Records one step: pass it to `Pipeline.step` as its observer.

    Collective: ranks agree on time zero.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__(device)
        self._clock.settle()
        dist.barrier()
        self._origin = self._clock.now()

    def gather(self, placement: Placement, title: str, ranks: list[int]) -> Measured:
        """The step of the pipeline whose global ranks are `ranks`; collective, on all ranks."""
        self._clock.settle()
        seconds = self._clock.seconds
        own = [(a, phase, seconds(self._origin, at) * _MS) for a, phase, at in self._marks]
        every = gathered(own)
        return measured([every[rank] for rank in ranks], placement, title)

    def compute_s(self) -> float:
        """Seconds that this rank has computed, of the step that has ended."""
        seconds = self._clock.seconds
        spans, _ = _one_rank([(a, f, seconds(self._origin, at)) for a, f, at in self._marks])
        return sum(span.end - span.start for span in spans)


class StageTimes(_Recorder):
    """Records the compute of one rank: pass it to `Pipeline.step` as its observer."""

    def take(self) -> Medians:
        """Medians over all that was recorded since the last time, in seconds."""
        self._clock.settle()
        marks, self._marks = self._marks, []
        return medians(
            (action, self._clock.seconds(start, end))
            for (_, _, start), (action, phase, end) in pairwise(marks)
            if phase is Phase.COMPUTE
        )


def medians(taken: Iterable[tuple[Action, float]]) -> Medians:
    """The median time of every kind of action on every stage."""
    times: dict[tuple[Kind, int], list[float]] = defaultdict(list)
    for action, time_taken in taken:
        times[action.kind, action.stage].append(time_taken)
    return {key: median(found) for key, found in times.items()}


def predicted(timeline: Timeline, schedule: Schedule) -> Timeline:
    """The schedule's order, each action taking the median time of its kind and stage, in ms."""
    taken = (span for rank in timeline.spans for span in rank)
    typical = medians((action, end - start) for action, start, end in taken)
    ideal = evaluate(schedule, lambda action: typical[action.kind, action.stage])
    return Timeline("predicted", ideal.placement, ideal.spans, "ms")


def measured(marks: list[Marks], placement: Placement, title: str) -> Measured:
    """Spans and idle time from every rank's marks, in the order in which they were made."""
    spans, waits = zip(*map(_one_rank, marks), strict=True)
    timeline = Timeline(title, placement, tuple(map(tuple, spans)), "ms")
    start = min((rank[0].start for rank in spans if rank), default=0.0)
    end = max((rank[-1].end for rank in spans if rank), default=0.0)
    for own, idle in zip(spans, waits, strict=True):
        if own:
            idle[Cause.RAMP] += own[0].start - start
            idle[Cause.TAIL] += end - own[-1].end
    return Measured(timeline, waits)


def _one_rank(marks: Marks) -> tuple[list[Span], dict[Cause, float]]:
    """Spans, and the idle time between the first and the last of them."""
    causes = {Phase.BEGIN: Cause.HOST, Phase.INPUT: Cause.PEER, Phase.PARAMETERS: Cause.GATHER}
    spans: list[Span] = []
    idle = dict.fromkeys(Cause, 0.0)
    before: float | None = None
    for action, phase, now in marks:
        if phase is Phase.COMPUTE:
            spans.append(Span(action, now if before is None else before, now))
        elif spans and before is not None:
            idle[causes[phase]] += now - before
        before = now
    return spans, idle


def gathered_costs(own: Medians, placement: Placement, latency: float) -> Costs | None:
    """The costs of all stages; collective on all ranks, the same on each.

    A stage that several data-parallel ranks hold takes as long as on the slowest, for which the
    others wait. None where backwards are fused, so that B and W are not known apart.
    """
    slowest: Medians = {}
    for found in gathered(own):
        for key, seconds in found.items():
            slowest[key] = max(seconds, slowest.get(key, 0.0))
    stages = range(placement.num_stages)
    if any((Kind.W, stage) not in slowest for stage in stages):
        return None
    forward, backward, weight = (
        tuple(slowest[kind, stage] for stage in stages) for kind in (Kind.F, Kind.B, Kind.W)
    )
    return Costs(forward, backward, weight, latency)

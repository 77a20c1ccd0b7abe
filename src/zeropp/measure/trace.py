"""Measuring steps: when every compute action ran, why ranks were idle, what each stage takes.

    phases of an action     BEGIN    INPUT          PARAMETERS     COMPUTE
                              |  peer  |   gather       |   work      |
    idle time               host: from one action's COMPUTE to the next one's BEGIN

Times come from the device: events on a GPU's stream, the clock on a CPU. Nothing waits for the
device before the step is over.
"""

import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from zeropp.costs import Costs
from zeropp.ir import Action, Kind, Placement, Span, Timeline
from zeropp.ir.timeline import Cause
from zeropp.runtime.mesh import gathered
from zeropp.runtime.observer import Phase

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
    """One measured step.

    Attributes:
        timeline: the compute spans of every rank of one pipeline, in ms.
        idle: for each rank, its idle time by cause, in ms; with the spans it sums to the makespan.
    """

    timeline: Timeline
    idle: tuple[Mapping[Cause, float], ...]

    def idle_ratios(self) -> dict[str, float]:
        """Idle time of all ranks by cause / (P x makespan); causes that took time."""
        total = len(self.idle) * self.timeline.makespan
        sums = {cause: sum(rank[cause] for rank in self.idle) for cause in Cause}
        return {str(cause): time / total for cause, time in sums.items() if time}


class Trace:
    """Records one step: pass it to `Pipeline.step` as its observer.

    Collective: ranks agree on time zero.
    """

    def __init__(self, device: torch.device) -> None:
        self._clock = clock_of(device)
        self._marks: list[tuple[Action, Phase, Any]] = []
        self._clock.settle()
        dist.barrier()
        self._origin = self._clock.now()

    def observe(self, action: Action, phase: Phase) -> None:
        """Record that `phase` of `action` ends now."""
        self._marks.append((action, phase, self._clock.now()))

    def gather(self, placement: Placement, title: str, ranks: list[int]) -> Measured:
        """The step of the pipeline whose global ranks are `ranks`; collective, on all ranks."""
        self._clock.settle()
        seconds = self._clock.seconds
        own = [(a, phase, seconds(self._origin, at) * _MS) for a, phase, at in self._marks]
        every = gathered(own)
        return measured([every[rank] for rank in ranks], placement, title)


def measured(marks: list[Marks], placement: Placement, title: str) -> Measured:
    """Spans and idle time from every rank's marks, in the order in which they were made."""
    spans, waits = [], []
    for rank in marks:
        own, idle = _one_rank(rank)
        spans.append(own)
        waits.append(idle)
    timeline = Timeline(title, placement, tuple(map(tuple, spans)), "ms")
    start = min((rank[0].start for rank in spans if rank), default=0.0)
    end = max((rank[-1].end for rank in spans if rank), default=0.0)
    for own, idle in zip(spans, waits, strict=True):
        if own:
            idle[Cause.RAMP] += own[0].start - start
            idle[Cause.TAIL] += end - own[-1].end
    return Measured(timeline, tuple(waits))


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


class StageTimes:
    """Records the compute of one rank: pass it to `Pipeline.step` as its observer."""

    def __init__(self, device: torch.device) -> None:
        self._clock = clock_of(device)
        self._began: Any = None
        self._spans: dict[tuple[Kind, int], list[tuple[Any, Any]]] = defaultdict(list)

    def observe(self, action: Action, phase: Phase) -> None:
        """A phase of an action ends."""
        now = self._clock.now()
        if phase is Phase.COMPUTE:
            self._spans[action.kind, action.stage].append((self._began, now))
        self._began = now

    def take(self) -> Medians:
        """Medians over all that was recorded since the last time, in seconds."""
        self._clock.settle()
        spans, self._spans = self._spans, defaultdict(list)
        seconds = self._clock.seconds
        return {key: median(seconds(*span) for span in found) for key, found in spans.items()}


def gathered_costs(own: Medians, placement: Placement, latency: float) -> Costs | None:
    """The costs of all stages; collective on all ranks, the same on each.

    A stage that several data-parallel ranks hold takes as long as on the slowest, for which the
    others wait. None where backwards are fused, so that B and W are not known apart.
    """
    slowest: Medians = {}
    for medians in gathered(own):
        for key, seconds in medians.items():
            slowest[key] = max(seconds, slowest.get(key, 0.0))
    stages = range(placement.num_stages)
    if any((Kind.W, stage) not in slowest for stage in stages):
        return None
    forward, backward, weight = (
        tuple(slowest[kind, stage] for stage in stages) for kind in (Kind.F, Kind.B, Kind.W)
    )
    return Costs(forward, backward, weight, latency)

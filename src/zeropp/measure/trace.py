"""Measuring a step: when every compute action ran on every rank, and why ranks were idle.

    phases of an action     BEGIN    INPUT          PARAMETERS     COMPUTE
                              |  peer  |   gather       |   work      |
    idle time               host: from one action's COMPUTE to the next one's BEGIN

Times come from the device: events on a GPU's stream, the clock on a CPU. Nothing waits for the
device before the step is over.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from zeropp.ir import Action, Placement, Span, Timeline
from zeropp.ir.timeline import Cause
from zeropp.measure.clock import clock_of
from zeropp.runtime.observer import Phase

_MS = 1e3


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
        every: list[list[tuple[Action, Phase, float]] | None] = [None] * dist.get_world_size()
        dist.all_gather_object(every, own)
        return measured([every[rank] or [] for rank in ranks], placement, title)


def measured(
    marks: list[list[tuple[Action, Phase, float]]], placement: Placement, title: str
) -> Measured:
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


def _one_rank(marks: list[tuple[Action, Phase, float]]) -> tuple[list[Span], dict[Cause, float]]:
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

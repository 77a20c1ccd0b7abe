"""A timeline says when every action ran: predicted by evaluation, or measured by a run."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from zeropp.ir.action import COMPUTE, Action
from zeropp.ir.placement import Placement


class Span(NamedTuple):
    """One action and when it started and ended, in the timeline's time unit."""

    action: Action
    start: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """The spans of every rank, each in the order in which they started.

    Attributes:
        title: what a picture of it is called.
        placement: stage -> rank.
        spans: for each rank, its spans.
        unit: the unit of time, such as `f` or `ms`.
    """

    title: str
    placement: Placement
    spans: tuple[tuple[Span, ...], ...]
    unit: str = "f"

    @property
    def makespan(self) -> float:
        """From the first start to the last end over all ranks."""
        every = [span for rank in self.spans for span in rank]
        return max(s.end for s in every) - min(s.start for s in every) if every else 0.0

    def busy(self, rank: int) -> float:
        """The time in which `rank` computes."""
        return sum(s.end - s.start for s in self.spans[rank] if s.action.kind in COMPUTE)

    @property
    def bubble_ratio(self) -> float:
        """Idle time / (P x makespan)."""
        total = len(self.spans) * self.makespan
        return 1.0 - sum(map(self.busy, range(len(self.spans)))) / total if total else 0.0


class Cause(StrEnum):
    """Why a rank's compute stream is idle."""

    RAMP = "ramp"  # before its first action
    PEER = "peer"  # an input from another rank is not there
    GATHER = "gather"  # the stage's parameters are not there
    MEMORY = "memory"  # the same, and their gather had to wait until another stage was freed
    REDUCE = "reduce"  # after its last action, until its gradients are reduced
    TAIL = "tail"  # after that, until the last rank ends
    OPTIMIZER = "optimizer"  # the optimizer's step
    HOST = "host"  # messages are sent and posted; measured: whatever runs the program

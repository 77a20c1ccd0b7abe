"""Memory that pictures show: for every rank, the steps of what it holds over time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from zeropp.ir.timeline import Timeline

Curve = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class MemoryCurves:
    """What every rank of every timeline holds over time.

    Attributes:
        curves: per timeline and per rank, (time, amount) after every change: times as the
            timeline's own, in order; an amount holds until the next change or the timeline's end.
        label: what the amounts are, with their unit, such as `activations, in GiB`.

    Raises:
        ValueError: a rank without any amount, times out of order, an amount that is negative or
            not finite, or nothing but zeros.
    """

    curves: tuple[tuple[Curve, ...], ...]
    label: str

    def __post_init__(self) -> None:
        for index, ranks in enumerate(self.curves):
            for rank, curve in enumerate(ranks):
                name = f"memory of timeline {index}, rank {rank}"
                if not curve:
                    raise ValueError(f"{name} must have at least one amount")
                if any(before > after for (before, _), (after, _) in pairwise(curve)):
                    raise ValueError(f"{name} must list its times in order")
                for _, amount in curve:
                    if not 0 <= amount < math.inf:
                        raise ValueError(f"{name} must be finite and 0 or more, got {amount}")
        if not self.largest > 0:
            raise ValueError("memory must be above 0 somewhere; leave it out where nothing is held")

    @property
    def largest(self) -> float:
        """The largest peak over all timelines and ranks."""
        return max((peak_of(curve) for ranks in self.curves for curve in ranks), default=0.0)

    def refuse_others(self, timelines: Sequence[Timeline]) -> None:
        """Raise a ValueError if `timelines` are more or fewer, or have more or fewer ranks."""
        wanted = [len(timeline.spans) for timeline in timelines]
        if (got := [len(ranks) for ranks in self.curves]) != wanted:
            raise ValueError(
                f"memory must have a curve for each rank of each timeline, {wanted}; got {got}"
            )


def peak_of(curve: Curve) -> float:
    """The largest amount."""
    return max(amount for _, amount in curve)

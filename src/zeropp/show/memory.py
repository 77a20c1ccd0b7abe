"""Memory in pictures: a filled step curve under each rank, all of them to one scale.

rank 0   [ compute boxes ]
             __--__
         __--      --__     peak 11.5
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from zeropp.ir.timeline import Timeline
from zeropp.show.caption import number
from zeropp.show.palette import HELD, HELD_EDGE, QUIET

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
                _refuse_bad_curve(f"memory of timeline {index}, rank {rank}", curve)
        if not self.largest > 0:
            raise ValueError("memory must be above 0 somewhere; leave it out where nothing is held")

    @property
    def largest(self) -> float:
        """The largest peak over all timelines and ranks."""
        return max((peak_of(curve) for ranks in self.curves for curve in ranks), default=0.0)

    def refuse_others(self, timelines: Sequence[Timeline]) -> None:
        """Check that these are the curves of `timelines`.

        Raises:
            ValueError: another number of timelines or ranks.
        """
        wanted = [len(timeline.spans) for timeline in timelines]
        if (got := [len(ranks) for ranks in self.curves]) != wanted:
            raise ValueError(
                f"memory must have a curve for each rank of each timeline, {wanted}; got {got}"
            )


def peak_of(curve: Curve) -> float:
    """The largest amount."""
    return max(amount for _, amount in curve)


def draw_curve(axes: "Axes", points: Sequence[tuple[float, float]], base: float) -> None:
    """Fill between the outline `points`, as `outline` gives them, and the height `base`."""
    from matplotlib.collections import PolyCollection

    corners = [(points[0][0], base), *points, (points[-1][0], base)]
    axes.add_collection(PolyCollection([corners], facecolors=[HELD], linewidths=0), autolim=False)
    axes.plot(*zip(*points, strict=True), color=HELD_EDGE, linewidth=0.8, clip_on=False)


def draw_peak(
    axes: "Axes", curve: Curve, right: float, middle: float, size: float, air: float
) -> None:
    """Write the peak beside the time `right`, `air` points away from it."""
    axes.annotate(
        f"peak {number(peak_of(curve))}",
        (right, middle),
        (air, 0),
        textcoords="offset points",
        fontsize=size,
        color=QUIET,
        va="center",
        annotation_clip=False,
    )


def outline(curve: Curve, end: float) -> Iterator[tuple[float, float]]:
    """The corners of the steps from the first change to `end`, without those on a straight line."""
    steps = list(_changes(curve))
    for (time, amount), (until, _) in pairwise([*steps, (max(end, steps[-1][0]), 0.0)]):
        yield time, amount
        yield until, amount


def _changes(curve: Curve) -> Iterator[tuple[float, float]]:
    """Only the steps that change the amount."""
    before = math.nan
    for time, amount in curve:
        if amount != before:
            yield time, amount
        before = amount


def _refuse_bad_curve(name: str, curve: Iterable[tuple[float, float]]) -> None:
    steps = list(curve)
    if not steps:
        raise ValueError(f"{name} must have at least one amount")
    if any(before > after for (before, _), (after, _) in pairwise(steps)):
        raise ValueError(f"{name} must list its times in order")
    for _, amount in steps:
        if not 0 <= amount < math.inf:
            raise ValueError(f"{name} must be finite and 0 or more, got {amount}")

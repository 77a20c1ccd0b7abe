"""A panel: one timeline in one pair of axes, with time to the right and ranks downwards.

title  sizes                                     makespan, bubble ratio
         floor (dashed)
rank 0   [ compute boxes, numbered by micro-batch ]
         [ collectives, thin ] [ p2p, thin ]
         memory: filled steps                     peak
rank 1   ...
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import itemgetter
from statistics import median
from typing import TYPE_CHECKING, Any

from zeropp.ir.timeline import Span, Timeline
from zeropp.show.palette import HELD, HELD_EDGE, IDLE, INK, QUIET, WHITE, Colour, ink_on, shade
from zeropp.show.parts import Row, figures, number, rows_of, start_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Steps = tuple[tuple[float, float], ...]

# heights in compute rows: a row of collectives or P2P, one of memory, what is free around it
_THIN, _MEMORY, _AIR, _GAP = 0.28, 0.62, 0.12, 0.16
_LARGEST, _SMALLEST = 8.5, 2.0  # points of the numbers in boxes
_LETTERS = 125  # that fit above a panel


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

    curves: tuple[tuple[Steps, ...], ...]
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
        return max((_peak_of(curve) for ranks in self.curves for curve in ranks), default=0.0)


class Panel:
    """What a panel shows: times are the timeline's, heights in compute rows."""

    def __init__(
        self, timeline: Timeline, end: float, floor: float | None, curves: Sequence[Steps]
    ) -> None:
        self.timeline, self.floor = timeline, floor
        self.start, self.end = start_of(timeline), end  # drawn as 0; from there to the right edge
        self.rows = list(rows_of(timeline))
        ranks = range(len(timeline.spans))
        thin = len({row.lane for row in self.rows}) - 1
        memory = _AIR + _MEMORY + _GAP if curves else 0.0
        pitch = 1.0 + _THIN * thin + memory + _GAP
        self.height = pitch * len(ranks)
        self.middles = [0.5 + rank * pitch for rank in ranks]  # of the compute rows
        # for each rank whose memory is drawn, the line at which it is 0, and what it holds
        bases = [middle - 0.5 + pitch - 2 * _GAP for middle in self.middles]
        self.memory = list(zip(bases, curves, strict=False))
        rows = [row for row in self.rows if row.lane == "compute"]
        self.compute = [(self.middles[row.rank], span) for row in rows for span in row.spans]
        times = [span.end - span.start for _, span in self.compute if span.end > span.start]
        self.box = median(times) if times else timeline.makespan  # the middle action's time

    def colour(self, span: Span) -> Colour:
        """By kind and chunk."""
        placement, action = self.timeline.placement, span.action
        return shade(action.kind, placement.chunk_of(action.stage), placement.num_chunks)


def draw_frame(axes: "Axes", panel: Panel, time_axis: bool) -> None:
    """Draw all that needs room around the boxes, so that the layout can be made."""
    axes.set(xlim=(0.0, panel.end), ylim=(panel.height, 0.0))
    ranks = [f"rank {rank}" for rank in range(len(panel.middles))]
    axes.set_yticks(panel.middles, ranks, fontsize=9, color=INK)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    _draw_titles(axes, panel)
    if (floor := panel.floor) is not None:
        axes.axvline(floor, color=INK, linewidth=1.2, linestyle=(0, (4, 2)), clip_on=False)
        side = "right" if floor > panel.end / 2 else "left"
        label = f"floor {number(floor)} {panel.timeline.unit}"
        _note(axes, label, (floor, 1), (0, 4), ("data", "axes fraction"), ha=side, color=INK)
    for base, curve in panel.memory:
        peak, place = f"peak {number(_peak_of(curve))}", (1, base - _MEMORY / 2)
        _note(axes, peak, place, (5, 0), ("axes fraction", "data"), va="center", color=QUIET)
    if time_axis:
        axes.set_xlabel(f"time ({panel.timeline.unit})", fontsize=9, color=QUIET)
        axes.tick_params(axis="x", length=3.5, color=QUIET, labelcolor=QUIET, labelsize=8.5)
        axes.spines["bottom"].set(visible=True, color=QUIET, linewidth=0.6)


def fill_frame(axes: "Axes", panel: Panel, most: float) -> None:
    """Draw boxes, their numbers and memory into a frame whose layout is made.

    `most` is the amount that fills the height of a row of memory.
    """
    points = 72.0 / axes.figure.dpi
    width, row = points * axes.bbox.width / panel.end, points * axes.bbox.height / panel.height
    axes.barh(panel.middles, panel.timeline.makespan, 1.0, color=IDLE)
    _draw_boxes(axes, panel, min(0.6, 0.1 * width * panel.box))
    _draw_numbers(axes, panel, width, min(_LARGEST, 0.6 * row))
    style: dict[str, Any] = {"facecolor": HELD, "edgecolor": HELD_EDGE, "linewidth": 0.6}
    for base, curve in panel.memory:
        times = [time - panel.start for time, _ in curve]
        heights = [base - _MEMORY * amount / most for _, amount in (*curve, curve[-1])]
        end = max(panel.timeline.makespan, times[-1])
        axes.fill_between([*times, end], heights, base, step="post", **style)


def _peak_of(curve: Steps) -> float:
    return max(amount for _, amount in curve)


def _note(axes: "Axes", text: str, place: Any, offset: Any, places: Any, **style: Any) -> None:
    """Text beside a place, `offset` points away from it; the place's coordinates are `places`."""
    axes.annotate(text, place, offset, places, "offset points", **{"fontsize": 8.5, **style})


def _draw_titles(axes: "Axes", panel: Panel) -> None:
    """Name and sizes above the left end, the two figures above the right end or below the name."""
    name, pad = panel.timeline.title, 6 if panel.floor is None else 18
    sizes, makespan, bubble_ratio = figures(panel.timeline)
    right = f"{makespan}{_over_floor(panel)}    {bubble_ratio}"
    axes.set_title(right, loc="right", pad=pad, fontsize=9.5, color=INK)
    left = name + "\n" * (len(name + sizes + right) > _LETTERS)
    title = axes.set_title(left, loc="left", pad=pad, fontsize=11.5, weight="bold", color=INK)
    style = {"va": "top", "fontsize": 9.5, "color": QUIET, "in_layout": False}
    _note(axes, sizes, (1, 1), (8, -2), title, **style)


def _over_floor(panel: Panel) -> str:
    if not panel.floor:
        return ""
    over = f"{100 * (panel.timeline.makespan / panel.floor - 1):.1f}"
    return " (the floor)" if over in ("0.0", "-0.0") else f" ({over} % over the floor)"


def _draw_boxes(axes: "Axes", panel: Panel, edge: float) -> None:
    """All boxes of a row as one artist: thousands of single ones would take seconds."""
    for row, top, height in _placed(panel):
        spans = [span for span in row.spans if span.end > span.start]
        times = [(span.start - panel.start, span.end - span.start) for span in spans]
        colours = list(map(panel.colour, spans))
        axes.broken_barh(times, (top, height), facecolor=colours, edgecolor=WHITE, linewidth=edge)


def _placed(panel: Panel) -> Iterator[tuple[Row, float, float]]:
    """Every row, its upper edge and its height; a lane's rows share its height."""
    top = 0.0
    for (rank, lane), grouped in groupby(panel.rows, itemgetter(0, 1)):
        rows = list(grouped)
        if lane == "compute":
            yield rows[0], panel.middles[rank] - 0.5, 1.0
            top = panel.middles[rank] + 0.5
            continue
        height = 0.85 * _THIN / len(rows)
        for index, row in enumerate(rows):
            yield row, top + 0.15 * _THIN + index * height, height
        top += _THIN


def _draw_numbers(axes: "Axes", panel: Panel, width: float, largest: float) -> None:
    """The micro-batch in each box that is wide enough; `width` is a time unit's, in points.

    The size is that at which the longest number fits the median box.
    """
    digits = max((len(str(span.action.microbatch)) for _, span in panel.compute), default=1)
    size = min(largest, width * panel.box / _number_width(digits))
    if size < _SMALLEST:
        return
    style: dict[str, Any] = {"fontsize": size, "ha": "center", "va": "center", "parse_math": False}
    for middle, span in panel.compute:
        text = str(span.action.microbatch)
        if (span.end - span.start) * width >= 0.999 * size * _number_width(len(text)):
            centre, colour = (span.start + span.end) / 2 - panel.start, ink_on(panel.colour(span))
            place = {**style, "color": colour, "transform": axes.transData}
            # axes would clip each one, which takes a third of the whole time
            axes.figure.text(centre, middle, text, **place)


def _number_width(digits: int) -> float:
    """Of the digits and the air around them, in font sizes."""
    return 0.64 * digits + 0.2

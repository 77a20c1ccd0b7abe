"""Layout: where every panel of a picture lies, in inches, before anything is drawn."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from zeropp.ir.timeline import Timeline
from zeropp.show.lanes import Lanes, lanes_of, start_of
from zeropp.show.legend import legend_rows
from zeropp.show.memory import Curve, MemoryCurves

_LEFT, _RIGHT, _TOP, _BETWEEN = 0.70, 0.22, 0.06, 0.14
_LEGEND, _LEGEND_ROW = 0.13, 0.22
_PEAKS = 0.62  # right of the time axis, where there is memory
_TITLE, _FLOOR_LABEL, _AXIS = 0.34, 0.16, 0.50
_NARROWEST, _WIDEST = 9.0, 20.0
_FIGURES, _LETTER = 6.8, 0.11  # what stands beside a title, and one letter of it
_UNSCALED = 11.0  # wider pictures get larger text, since readers see them shrunk to a page
_BOX = 0.20  # the width wanted for the median box, so that two digits fit
_ALL_ROWS, _LOWEST, _HIGHEST = 7.0, 0.13, 0.36
THIN = 0.28  # a row of collectives or P2P, in heights of a compute row
MEMORY, MEMORY_AIR = 0.62, 0.12  # the lane of memory and what is left free above it, likewise
_GAP, GAP_MEMORY = 0.16, 0.34  # below each rank, without and with memory

Floor = float | Sequence[float] | None  # of all timelines in the first one's unit, or of each


@dataclass(frozen=True)
class Panel:
    """One timeline's place in the picture; lengths in inches, times in the timeline's unit.

    Attributes:
        timeline: what it shows.
        start: the time drawn as 0.
        lanes: for each rank, its spans by lane.
        bottom: from the picture's lower edge to the panel's.
        row: height of a compute row.
        end: the time at the right edge.
        floor: the time of the floor line, if it has one.
        labelled: whether it has time labels of its own.
        curves: for each rank, what it holds; empty without memory.
        most: what fills the height of a lane of memory.
    """

    timeline: Timeline
    start: float
    lanes: tuple[Lanes, ...]
    bottom: float
    row: float
    end: float
    floor: float | None
    labelled: bool
    curves: tuple[Curve, ...]
    most: float

    @property
    def pitch(self) -> float:
        """From one rank's upper edge to the next rank's."""
        memory = MEMORY_AIR + MEMORY + GAP_MEMORY if self.curves else _GAP
        return self.row * (1.0 + THIN * thin_rows(self.lanes) + memory)

    @property
    def height(self) -> float:
        """All ranks."""
        return self.pitch * len(self.lanes)


@dataclass(frozen=True)
class Layout:
    """The picture's panels, top to bottom, and its measures in inches.

    Attributes:
        left: from the picture's left edge to the time axes.
        axis: length of the time axes.
        scale: by which text is larger than in a small picture.
    """

    panels: tuple[Panel, ...]
    width: float
    height: float
    left: float
    axis: float
    scale: float


def thin_rows(lanes: Sequence[Lanes]) -> int:
    """How many thin rows each rank needs: one for collectives, one for P2P, where there are any."""
    return any(rank.collectives for rank in lanes) + any(rank.p2p for rank in lanes)


def lay_out(
    timelines: Sequence[Timeline], floor: Floor = None, memory: MemoryCurves | None = None
) -> Layout:
    """Place one panel per timeline, with one time scale where all have the same unit.

    Raises:
        ValueError: no timeline, one that takes no time, a floor that is not positive, or floors or
            memory of other timelines.
    """
    if not timelines:
        raise ValueError("timelines must hold at least one timeline")
    floors = _floors(timelines, floor)
    if memory is not None:
        memory.refuse_others(timelines)
    starts = [start_of(timeline) for timeline in timelines]
    shared = len({timeline.unit for timeline in timelines}) == 1
    right = _RIGHT + _PEAKS * (memory is not None)
    width = _width(timelines, shared, right)
    scale = max(1.0, width / _UNSCALED)
    row = _row_height(timelines, memory is not None) * scale
    panels: list[Panel] = []
    bottom = (_LEGEND + _LEGEND_ROW * legend_rows(timelines, memory, width / scale)) * scale
    for index, timeline in reversed(list(enumerate(timelines))):
        labelled = not shared or not panels
        bottom += (_AXIS if labelled else _BETWEEN) * scale
        panel = Panel(
            timeline=timeline,
            start=starts[index],
            lanes=tuple(map(lanes_of, timeline.spans)),
            bottom=bottom,
            row=row,
            end=_end(timelines, floors) if shared else _end([timeline], [floors[index]]),
            floor=floors[index],
            labelled=labelled,
            curves=memory.curves[index] if memory else (),
            most=memory.largest if memory else 0.0,
        )
        panels.append(panel)
        bottom += panel.height + (_TITLE + _FLOOR_LABEL * (panel.floor is not None)) * scale
    height = bottom + _TOP * scale
    axis = width - (_LEFT + right) * scale
    return Layout(tuple(panels[::-1]), width, height, _LEFT * scale, axis, scale)


def _floors(timelines: Sequence[Timeline], floor: Floor) -> list[float | None]:
    """Each timeline's floor; one number is that of all timelines in the first one's unit."""
    if floor is None:
        return [None for _ in timelines]
    if isinstance(floor, Sequence):
        each: list[float | None] = list(floor)
        if len(each) != len(timelines):
            raise ValueError(f"floor must list {len(timelines)}, one a timeline; got {len(each)}")
    else:
        each = [floor if t.unit == timelines[0].unit else None for t in timelines]
    for bound in each:
        if bound is not None and not 0 < bound < math.inf:
            raise ValueError(f"floor must be a positive time, got {bound}")
    return each


def median_box(timeline: Timeline) -> float:
    """The time that the middle one of the compute actions takes; without any, the makespan."""
    compute = (span for spans in timeline.spans for span in lanes_of(spans).compute)
    times = [span.end - span.start for span in compute if span.end > span.start]
    return median(times) if times else timeline.makespan


def _width(timelines: Sequence[Timeline], shared: bool, right: float) -> float:
    """Wide enough for the busiest timeline's boxes and the longest title, within bounds."""
    longest = max(timeline.makespan for timeline in timelines)
    boxes = max((longest if shared else t.makespan) / median_box(t) for t in timelines)
    title = _FIGURES + _LETTER * max(len(timeline.title) for timeline in timelines)
    return max(_NARROWEST, min(_WIDEST, _LEFT + max(_BOX * boxes, title) + right))


def _row_height(timelines: Sequence[Timeline], memory: bool) -> float:
    rows = sum(len(timeline.spans) for timeline in timelines) * (1.0 + MEMORY * memory)
    return max(_LOWEST, min(_HIGHEST, _ALL_ROWS / rows))


def _end(timelines: Sequence[Timeline], floors: Iterable[float | None]) -> float:
    longest = max(timeline.makespan for timeline in timelines)
    return 1.002 * max(longest, *(floor or 0.0 for floor in floors))

"""A panel: one timeline drawn into one pair of axes, with time to the right and ranks downwards."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from zeropp.ir.timeline import Span
from zeropp.show.caption import bubble_ratio, makespan, number, sizes
from zeropp.show.lanes import Rows
from zeropp.show.layout import GAP_MEMORY, MEMORY, THIN, Panel, median_box
from zeropp.show.memory import draw_curve, draw_peak, outline
from zeropp.show.palette import IDLE, INK, QUIET, WHITE, Colour, ink_on, shade

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Box = tuple[float, float, float, float, Colour]  # left, right, top, bottom, colour

_LARGEST, _SMALLEST = 8.5, 3.5  # points of the numbers in boxes
_DIGIT, _AIR = 0.64, 0.2  # the width of a digit and of the air around a number, in font sizes


def draw_panel(axes: "Axes", panel: Panel, width: float, scale: float) -> None:
    """Draw `panel` into `axes`, whose time axis is `width` inches long; `scale` enlarges text."""
    points = 72.0 * width / panel.end
    _draw_frame(axes, panel, scale)
    _draw_boxes(axes, list(_boxes(panel)), min(0.6, 0.1 * points * median_box(panel.timeline)))
    _draw_numbers(axes, panel, points, _number_size(panel, points, scale))
    _draw_titles(axes, panel, scale)
    _draw_memory(axes, panel, scale)
    if panel.floor is not None:
        _draw_floor(axes, panel, panel.floor, scale)


def _boxes(panel: Panel) -> Iterator[Box]:
    """Idle bands first, then what lies on them."""
    for rank, lanes in enumerate(panel.lanes):
        top = rank * panel.pitch
        yield 0.0, panel.timeline.makespan, top, top + panel.row, IDLE
        yield from _row(panel, lanes.compute, top, panel.row)
        top += panel.row
        for rows in (lanes.collectives, lanes.p2p):
            if rows:
                yield from _thin_rows(panel, rows, top)
                top += THIN * panel.row


def _thin_rows(panel: Panel, rows: Rows, top: float) -> Iterator[Box]:
    height = THIN * panel.row
    each = (height - 0.15 * height) / len(rows)
    for index, row in enumerate(rows):
        yield from _row(panel, row, top + 0.15 * height + index * each, each)


def _row(panel: Panel, spans: Iterable[Span], top: float, height: float) -> Iterator[Box]:
    placement = panel.timeline.placement
    for action, start, end in spans:
        colour = shade(action.kind, placement.chunk_of(action.stage), placement.num_chunks)
        if end > start:
            yield start - panel.start, end - panel.start, top, top + height, colour


def _draw_boxes(axes: "Axes", boxes: list[Box], edge: float) -> None:
    """All boxes as one artist: thousands of single ones would take seconds."""
    from matplotlib.collections import PolyCollection

    corners = [
        ((left, top), (right, top), (right, bottom), (left, bottom))
        for left, right, top, bottom, _ in boxes
    ]
    colours = [colour for *_, colour in boxes]
    axes.add_collection(
        PolyCollection(corners, facecolors=colours, edgecolors=[WHITE], linewidths=edge),
        autolim=False,
    )


def _draw_numbers(axes: "Axes", panel: Panel, points: float, size: float) -> None:
    """The micro-batch in each box that is wide enough; `points` are those per time unit.

    The figure owns the numbers: axes would clip each one, which takes a third of the whole time.
    """
    placement = panel.timeline.placement
    if size < _SMALLEST:
        return
    for rank, lanes in enumerate(panel.lanes):
        middle = rank * panel.pitch + panel.row / 2
        for action, start, end in lanes.compute:
            text = str(action.microbatch)
            if (end - start) * points < 0.999 * size * _number_width(len(text)):
                continue
            colour = shade(action.kind, placement.chunk_of(action.stage), placement.num_chunks)
            axes.figure.text(
                (start + end) / 2 - panel.start,
                middle,
                text,
                fontsize=size,
                color=ink_on(colour),
                ha="center",
                va="center",
                parse_math=False,
                transform=axes.transData,
            )


def _draw_memory(axes: "Axes", panel: Panel, scale: float) -> None:
    height = MEMORY * panel.row
    end = panel.timeline.makespan
    size = min(8.5 * scale, 72.0 * height)
    for rank, curve in enumerate(panel.curves):
        base = (rank + 1) * panel.pitch - GAP_MEMORY * panel.row
        points = [
            (time - panel.start, base - height * amount / panel.most)
            for time, amount in outline(curve, panel.start + end)
        ]
        draw_curve(axes, points, base)
        draw_peak(axes, curve, panel.end, base - height / 2, size, 5 * scale)


def _number_size(panel: Panel, points: float, scale: float) -> float:
    """The size at which the longest number fits the median box."""
    numbers = [s.action.microbatch or 0 for rank in panel.lanes for s in rank.compute]
    digits = len(str(max(numbers, default=0)))
    fits_width = median_box(panel.timeline) * points / _number_width(digits)
    return min(_LARGEST * scale, 0.6 * 72.0 * panel.row, fits_width)


def _number_width(digits: int) -> float:
    """In font sizes."""
    return _DIGIT * digits + _AIR


def _draw_frame(axes: "Axes", panel: Panel, scale: float) -> None:
    axes.set_xlim(0.0, panel.end)
    axes.set_ylim(panel.height, 0.0)
    ranks = range(len(panel.lanes))
    axes.set_yticks(
        [rank * panel.pitch + panel.row / 2 for rank in ranks],
        [f"rank {rank}" for rank in ranks],
        fontsize=min(9.0 * scale, 65.0 * panel.pitch),
    )
    axes.spines[:].set_visible(False)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.tick_params(axis="x", color=QUIET, labelcolor=QUIET, labelsize=8.5 * scale)
    if panel.labelled:
        axes.set_xlabel(f"time ({panel.timeline.unit})", fontsize=9.0 * scale, color=QUIET)
        axes.spines["bottom"].set(visible=True, color=QUIET, linewidth=0.6)
    else:
        axes.tick_params(axis="x", bottom=False, labelbottom=False)


def _draw_titles(axes: "Axes", panel: Panel, scale: float) -> None:
    """Name and sizes above the left end, the two figures above the right end."""
    timeline = panel.timeline
    lift = (17 if panel.floor is not None else 6) * scale
    figures = f"{makespan(timeline)}{_over_floor(panel)}    {bubble_ratio(timeline)}"
    name = axes.annotate(
        timeline.title,
        (0, 1),
        (0, lift),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=11.5 * scale,
        fontweight="bold",
        color=INK,
    )
    axes.annotate(
        sizes(timeline),
        (1, 0),
        (8 * scale, 0.5 * scale),
        xycoords=name,
        textcoords="offset points",
        fontsize=9.5 * scale,
        color=QUIET,
        va="bottom",
    )
    axes.annotate(
        figures,
        (1, 1),
        (0, lift),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=9.5 * scale,
        color=INK,
        ha="right",
    )


def _over_floor(panel: Panel) -> str:
    if not panel.floor:
        return ""
    over = f"{100 * (panel.timeline.makespan / panel.floor - 1):.1f}"
    return " (the floor)" if over in ("0.0", "-0.0") else f" ({over} % over the floor)"


def _draw_floor(axes: "Axes", panel: Panel, floor: float, scale: float) -> None:
    axes.axvline(floor, color=INK, linewidth=1.2 * scale, linestyle=(0, (4, 2)), clip_on=False)
    late = floor > panel.end / 2
    axes.annotate(
        f"floor {number(floor)} {panel.timeline.unit}",
        (floor, 0),
        (0, 4 * scale),
        textcoords="offset points",
        fontsize=8.5 * scale,
        color=INK,
        ha="right" if late else "left",
    )

"""Pictures, as SVG or PNG: timelines under each other, or curves over one knob."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zeropp.ir.action import COMPUTE, Kind
from zeropp.ir.files import replacing
from zeropp.ir.timeline import Timeline
from zeropp.show.palette import HELD, HELD_EDGE, IDLE, INK, QUIET, Colour, lighten, meaning, shade
from zeropp.show.panel import MemoryCurves, Panel, draw_frame, fill_frame
from zeropp.show.parts import kinds_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floor = float | Sequence[float] | None  # of all timelines in the first one's unit, or of each

# text stays text, and the same picture gives the same file
STYLE: list[str | dict[str, Any]] = ["default", {"svg.fonttype": "none", "svg.hashsalt": "zeropp"}]
_WIDTH = 11.0  # inches: of every picture, so that text is as large in all of them on a page
_ROWS, _LOWEST, _HIGHEST = 10.0, 0.17, 0.34  # inches: of all rows, and of one
_DPI, _FINEST, _PER_BOX = 180.0, 330.0, 3.5  # PNGs have more where there are many boxes
_LETTERS, _SWATCH = 120, 7  # in a line of the legend, and those that a swatch takes the room of


def draw_picture(
    timelines: Sequence[Timeline],
    path: str | Path,
    floor: Floor = None,
    memory: MemoryCurves | None = None,
) -> None:
    """Draw `timelines` under each other into `path`, as SVG or PNG by its suffix.

    Every timeline starts at 0. Timelines in one unit share one time axis, so that lengths compare;
    where units differ, each panel has an axis of its own.

    Args:
        timelines: at least one, such as a prediction and its measurement.
        path: ends in `.svg` or `.png`.
        floor: the least possible makespan, a dashed line: one in the first timeline's unit, for
            every panel of that unit, or one for each timeline in its own.
        memory: what each rank holds: a curve under its lanes and its peak beside it, all curves to
            the scale of the largest peak.

    Raises:
        ValueError: nothing to draw, a floor that is not positive, floors or memory of other
            timelines, or a suffix that is neither.
    """
    from matplotlib import style
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    path = check_picture(path)
    shared = len({timeline.unit for timeline in timelines}) == 1
    panels = _panels(timelines, shared, floor, memory)
    rows = [panel.height for panel in panels]
    row = min(_HIGHEST, max(_LOWEST, _ROWS / sum(rows)))
    with style.context(STYLE):
        figure = Figure((_WIDTH, row * sum(rows) + 0.7 * len(panels) + 1.1))
        grid = figure.subplots(len(panels), 1, sharex=shared, squeeze=False, height_ratios=rows)
        framed = list(zip(grid[:, 0], panels, strict=True))
        for axes, panel in framed:
            draw_frame(axes, panel, time_axis=not shared or panel is panels[-1])
        _draw_legend(figure, timelines, memory)
        # once: a figure that owns its layout makes it again whenever it is drawn
        ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.1).execute(figure)
        for axes, panel in framed:
            fill_frame(axes, panel, memory.largest if memory else 0.0)
        boxes = max(panel.end / panel.box for panel in panels)
        save_picture(figure, path, min(_FINEST, max(_DPI, _PER_BOX * boxes)))


def _panels(
    timelines: Sequence[Timeline], shared: bool, floor: Floor, memory: MemoryCurves | None
) -> list[Panel]:
    if not timelines:
        raise ValueError("timelines must hold at least one timeline")
    wanted = [len(timeline.spans) for timeline in timelines]
    if memory is not None and (got := [len(ranks) for ranks in memory.curves]) != wanted:
        raise ValueError(
            f"memory must have a curve for each rank of each timeline, {wanted}; got {got}"
        )
    floors = _floors(timelines, floor)
    ends = [1.002 * max(t.makespan, f or 0.0) for t, f in zip(timelines, floors, strict=True)]
    ends = [max(ends)] * len(ends) if shared else ends
    curves = memory.curves if memory else [()] * len(ends)
    return list(map(Panel, timelines, ends, floors, curves))


def _floors(timelines: Sequence[Timeline], floor: Floor) -> Sequence[float | None]:
    """Each timeline's floor; one number is that of all timelines in the first one's unit."""
    if not isinstance(floor, Sequence):
        floors = [floor if t.unit == timelines[0].unit else None for t in timelines]
    elif len(floors := list(floor)) != len(timelines):
        raise ValueError(f"floor must list {len(timelines)}, one a timeline; got {len(floors)}")
    for bound in floors:
        if bound is not None and not 0 < bound < math.inf:
            raise ValueError(f"floor must be a positive time, got {bound}")
    return floors


def _draw_legend(
    figure: "Figure", timelines: Sequence[Timeline], memory: MemoryCurves | None
) -> None:
    """Every kind, with one swatch per chunk, and what else has a colour, in as few lines as fit."""
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.patches import Patch

    chunks = range(max(timeline.placement.num_chunks for timeline in timelines))
    entries: dict[str, list[Colour]] = {}
    for kind in kinds_of(timelines):
        label = meaning(kind) if kind in COMPUTE else kind.partition("_")[0]
        entries[label] = [shade(kind, v, len(chunks)) for v in chunks]
    if len(chunks) > 1:
        entries[f"chunk 0 to {chunks[-1]}"] = [lighten(QUIET, v, len(chunks)) for v in chunks]
    entries["idle"] = [IDLE]
    if memory is not None:
        entries[memory.label] = [HELD]
    # tuples, which HandlerTuple takes though the annotations do not
    swatches: list[Any] = [tuple(Patch(facecolor=c) for c in each) for each in entries.values()]
    lines = math.ceil(sum(_SWATCH + len(label) for label in entries) / _LETTERS)
    figure.legend(
        swatches,
        list(entries),
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0.0)},
        loc="outside lower center",
        ncols=math.ceil(len(entries) / lines),
        frameon=False,
        fontsize=9,
        labelcolor=QUIET,
        columnspacing=1.6,
    )


@dataclass(frozen=True)
class Curve:
    """One panel.

    Attributes:
        label: what the values are, with their unit.
        values: one for each position on the horizontal axis.
        limit: a dashed line, such as the memory that there is.
    """

    label: str
    values: tuple[float, ...]
    limit: float | None = None


def draw_curves(
    title: str,
    knob: str,
    positions: Sequence[int],
    curves: Sequence[Curve],
    path: str | Path,
    *,
    chosen: int | None = None,
    fits: Sequence[bool] | None = None,
) -> None:
    """Draw `curves` over `positions` into `path`.

    Args:
        title: of the picture.
        knob: what the horizontal axis shows.
        positions: increasing.
        curves: at least one.
        path: ends in `.svg` or `.png`.
        chosen: the position to mark.
        fits: for each position, whether it is a choice at all; others are drawn as crosses.

    Raises:
        ValueError: another suffix, or a curve of another length than the positions.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    path = check_picture(path)
    for curve in curves:
        if len(curve.values) != len(positions):
            raise ValueError(f"{curve.label}: {len(curve.values)} values, {len(positions)} needed")
    dots = list(fits or [True] * len(positions))
    crosses = [not dot for dot in dots]
    with style.context(STYLE):
        figure = Figure(figsize=(6.4, 1.2 + 1.5 * len(curves)), layout="constrained")
        figure.suptitle(title, color=INK, fontsize=10)
        panels = figure.subplots(len(curves), 1, sharex=True, squeeze=False)[:, 0]
        for axes, curve in zip(panels, curves, strict=True):
            line = {"color": shade(Kind.F), "linewidth": 1.2, "markersize": 5}
            axes.plot(positions, curve.values, "-o", markevery=dots, **line)
            axes.plot(positions, curve.values, "x", markevery=crosses, color=QUIET, markersize=5)
            if curve.limit is not None:
                axes.axhline(curve.limit, color=HELD_EDGE, linestyle="--", linewidth=1)
            if chosen is not None:
                axes.axvline(chosen, color=shade(Kind.B), linewidth=1)
            axes.set_ylabel(curve.label, fontsize=8, color=INK)
            axes.set_ylim(0, 1.1 * max(*curve.values, curve.limit or 0.0, 1e-9))
            axes.tick_params(labelsize=8, colors=QUIET)
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(positions), list(map(str, positions)))
        axes.minorticks_off()
        axes.set_xlabel(knob, fontsize=8, color=INK)
        save_picture(figure, path)


def check_picture(path: str | Path) -> Path:
    """`path`; raise ValueError if its suffix is neither `.svg` nor `.png`."""
    path = Path(path)
    if path.suffix not in (".svg", ".png"):
        raise ValueError(f"output of a picture must end in .svg or .png, got {str(path)!r}")
    return path


def save_picture(figure: "Figure", path: Path, dpi: float = _DPI) -> None:
    """Write without a date, so that the same timelines give the same file."""
    svg = path.suffix == ".svg"
    options: dict[str, Any] = {"metadata": {"Date": None}} if svg else {"dpi": dpi}
    with replacing("output", path) as beside:
        figure.savefig(beside, format=path.suffix[1:], **options)

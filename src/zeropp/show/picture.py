"""Pictures: timelines stacked in one SVG or PNG, one row of boxes per rank.

title  sizes                                     makespan, bubble ratio
         floor (dashed)
rank 0   [ compute boxes, numbered by micro-batch ]
         [ collectives, thin ] [ p2p, thin ]
         memory: filled steps                     peak
rank 1   ...
         time axis
legend
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zeropp.ir.timeline import Timeline
from zeropp.show.layout import Floor, Layout, Panel, lay_out
from zeropp.show.legend import draw_legend
from zeropp.show.memory import MemoryCurves
from zeropp.show.panel import draw_panel

if TYPE_CHECKING:
    from matplotlib.figure import Figure


# text stays text, and the same picture gives the same file
STYLE: list[str | dict[str, Any]] = ["default", {"svg.fonttype": "none", "svg.hashsalt": "zeropp"}]
_SUFFIXES = (".svg", ".png")
_DPI = 180


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

    path = check_picture(path)
    layout = lay_out(timelines, floor, memory)
    with style.context(STYLE):
        figure = Figure(figsize=(layout.width, layout.height), facecolor="white")
        for panel in layout.panels:
            _add_panel(figure, layout, panel)
        draw_legend(figure, timelines, memory, layout.scale)
        save_picture(figure, path)


def _add_panel(figure: "Figure", layout: Layout, panel: Panel) -> None:
    left, width = layout.left / layout.width, layout.axis / layout.width
    bottom, height = panel.bottom / layout.height, panel.height / layout.height
    draw_panel(figure.add_axes((left, bottom, width, height)), panel, layout.axis, layout.scale)


def check_picture(path: str | Path) -> Path:
    """`path`, if it is a picture's.

    Raises:
        ValueError: a suffix other than `.svg` and `.png`.
    """
    path = Path(path)
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"output of a picture must end in .svg or .png, got {str(path)!r}")
    return path


def save_picture(figure: "Figure", path: Path) -> None:
    """Write without a date, so that the same timelines give the same file."""
    if path.suffix == ".svg":
        figure.savefig(path, metadata={"Date": None})
    else:
        figure.savefig(path, dpi=_DPI)

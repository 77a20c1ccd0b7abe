"""Pictures of timelines: text, SVG, PNG, and traces for Perfetto."""

from collections.abc import Sequence
from pathlib import Path

from zeropp.ir import files
from zeropp.ir.files import write_text
from zeropp.ir.timeline import Timeline
from zeropp.show.panel import MemoryCurves
from zeropp.show.perfetto import trace_events, write_trace
from zeropp.show.picture import Curve, Floor, check_picture, draw_curves, draw_picture
from zeropp.show.text import draw_text

SUFFIXES = (".txt", ".svg", ".png", ".json")


def show(
    timelines: Sequence[Timeline],
    path: str | Path,
    floor: Floor = None,
    memory: MemoryCurves | None = None,
) -> None:
    """Draw `timelines` into `path`, in the form that its suffix names.

    Args:
        timelines: at least one.
        path: text (`.txt`), a picture (`.svg`, `.png`) or a Chrome trace (`.json`).
        floor: the least possible makespan, which pictures draw, as `draw_picture` takes it.
        memory: what each rank holds over time, which pictures draw.

    Raises:
        ValueError: another suffix, no folder to write into, or nothing to draw. Then no file is
            made.
    """
    path = check_output(path)
    if not timelines:
        raise ValueError("timelines must hold at least one timeline")
    if path.suffix == ".txt":
        write_text("output", path, "\n".join(map(draw_text, timelines)))
    elif path.suffix == ".json":
        write_trace(timelines, path)
    else:
        draw_picture(timelines, path, floor, memory)


def check_output(path: str | Path) -> Path:
    """`path`; raise ValueError if `show` cannot write there, or not in the form it names."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"output must end in {', '.join(SUFFIXES)}; got {str(path)!r}")
    files.check_output("output", path)
    return path


__all__ = [
    "SUFFIXES",
    "Curve",
    "MemoryCurves",
    "check_output",
    "check_picture",
    "draw_curves",
    "draw_picture",
    "draw_text",
    "show",
    "trace_events",
    "write_trace",
]

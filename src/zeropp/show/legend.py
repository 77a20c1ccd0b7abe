"""The legend: every kind in the picture, with one swatch per chunk."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zeropp.ir.action import RECEIVES, SENDS, Kind
from zeropp.ir.timeline import Timeline
from zeropp.show.memory import MemoryCurves
from zeropp.show.palette import HELD, IDLE, QUIET, Colour, lighten, shade

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LABELS = {
    Kind.F: "F forward",
    Kind.B: "B input gradient",
    Kind.W: "W weight gradient",
    Kind.BW: "BW fused backward",
    **dict.fromkeys(SENDS, "SEND"),
    **dict.fromkeys(RECEIVES, "RECV"),
}
_SWATCH, _LETTER = 0.54, 0.078  # inches: a swatch with the gaps around it, and a letter


def legend_rows(timelines: Sequence[Timeline], memory: MemoryCurves | None, width: float) -> int:
    """How many rows the legend needs where text has its usual size; `width` is in inches."""
    labels = _entries(timelines, memory)
    return math.ceil(sum(_SWATCH + _LETTER * len(label) for label in labels) / width)


def draw_legend(
    figure: "Figure", timelines: Sequence[Timeline], memory: MemoryCurves | None, scale: float
) -> None:
    """Draw the legend along the figure's lower edge; `scale` enlarges its text."""
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.patches import Patch

    entries = _entries(timelines, memory)
    swatches: list[Any] = [  # tuples, which HandlerTuple takes though the annotations do not
        tuple(Patch(facecolor=colour) for colour in colours) for colours in entries.values()
    ]
    rows = legend_rows(timelines, memory, figure.get_figwidth() / scale)
    figure.legend(
        swatches,
        list(entries),
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0.0)},
        loc="lower center",
        ncols=math.ceil(len(entries) / rows),
        frameon=False,
        fontsize=9.0 * scale,
        labelcolor=QUIET,
        handlelength=2.0,
        handletextpad=0.6,
        columnspacing=1.6,
    )


def _entries(timelines: Sequence[Timeline], memory: MemoryCurves | None) -> dict[str, list[Colour]]:
    """Labels and their swatches, one per shade."""
    chunks = max(timeline.placement.num_chunks for timeline in timelines)
    spans = (span for t in timelines for rank in t.spans for span in rank)
    present = {span.action.kind for span in spans if span.end > span.start}
    entries: dict[str, list[Colour]] = {}
    for kind in Kind:
        if kind in present:
            shades = dict.fromkeys(shade(kind, chunk, chunks) for chunk in range(chunks))
            entries[_LABELS.get(kind, kind.value)] = list(shades)
    if chunks > 1:
        shades = {lighten(QUIET, chunk, chunks): None for chunk in range(chunks)}
        entries[f"chunk 0 to {chunks - 1}"] = list(shades)
    entries["idle"] = [IDLE]
    if memory is not None:
        entries[memory.label] = [HELD]
    return entries

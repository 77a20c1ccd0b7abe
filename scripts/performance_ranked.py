"""Pictures of sides side by side: each one's step over that of a pipeline that is never idle."""

from collections.abc import Sequence
from itertools import zip_longest
from math import ceil
from pathlib import Path
from typing import Any

from zeropp.ir.action import Kind
from zeropp.show.palette import HELD, INK, QUIET, shade
from zeropp.show.picture import STYLE, save_picture

Row = dict[str, Any]
COLUMNS = 2


def ranked_picture(rows: Sequence[Row], path: Path) -> None:
    """A panel for each of the settings, the fastest side on top, ours in colour."""
    from matplotlib import style
    from matplotlib.figure import Figure

    settings = list(dict.fromkeys(_setting(row) for row in rows))
    with style.context(STYLE):
        lines = ceil(len(settings) / COLUMNS)
        figure = Figure(figsize=(4.6 * COLUMNS, 2.4 * lines), layout="constrained")
        every = figure.subplots(lines, COLUMNS, squeeze=False).flatten()
        for axes, setting in zip_longest(every, settings):
            if setting is None:
                axes.set_axis_off()
            else:
                _panel(axes, setting, [row for row in rows if _setting(row) == setting])
        save_picture(figure, path)


def _setting(row: Row) -> str:
    sizes = " ".join(f"{key}={row[key]}" for key in ("P", "B", "rounds") if key in row)
    costs = ", ".join(f"{cost:g}" for cost in row.get("costs", ()))
    return f"{sizes}, F B W = {costs}" if costs else sizes


def _panel(axes: Any, setting: str, rows: Sequence[Row]) -> None:
    ranked = sorted(rows, key=lambda row: -float(row["most_possible"]))
    places = range(len(ranked))
    times = [row["most_possible"] for row in ranked]
    ours = [not row["schedule"].startswith("torch ") for row in ranked]
    axes.barh(
        places,
        [time - 1 for time in times],
        left=1,
        color=[shade(Kind.F) if own else HELD for own in ours],
    )
    for place, time in zip(places, times, strict=True):
        axes.text(time, place, f" {time:.2f}", va="center", fontsize=6, color=INK)
    axes.set_yticks(places, [f"{row['schedule']}, V={row['V']}" for row in ranked])
    axes.set_xlim(1, 1 + 1.15 * (max(times) - 1))
    axes.set_title(f"{setting}: step / never idle", fontsize=8, color=INK)
    axes.tick_params(labelsize=6, colors=QUIET)
    axes.spines[["top", "right"]].set_visible(False)

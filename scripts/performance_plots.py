"""Pictures of benchmark rows: groups of bars, and lines in panels."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from performance_entries import Plot, RefusedError, Row
from zeropp.ir.action import Kind
from zeropp.show.palette import INK, QUIET, shade
from zeropp.show.picture import STYLE, save_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_KINDS = (Kind.F, Kind.B, Kind.W, Kind.BW, Kind.UNSHARD, Kind.REDUCE)


def draw(plot: Plot, rows: Sequence[Row], path: Path) -> None:
    """Draw the rows that have the plot's keys.

    Raises:
        RefusedError: no row has them all.
    """
    keys = {*plot.label, *plot.values, *plot.panels, *([plot.series] if plot.series else [])}
    wanted = [row for row in rows if keys <= row.keys()]
    if not wanted:
        raise RefusedError(f"{path.stem}: no row has the keys of its plot, {', '.join(keys)}")
    (_bars if plot.kind == "bars" else _lines)(plot, wanted, path)


def _bars(plot: Plot, rows: Sequence[Row], path: Path) -> None:
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(STYLE):
        figure = Figure(figsize=(7, 0.8 + 0.3 * len(rows) * len(plot.values)), layout="constrained")
        axes = figure.subplots()
        height = 0.8 / len(plot.values)
        for index, key in enumerate(plot.values):
            places = [place + index * height for place in range(len(rows))]
            colour = shade(_KINDS[index])
            axes.barh(places, [row[key] for row in rows], height * 0.9, color=colour, label=key)
        middle = height * (len(plot.values) - 1) / 2
        axes.set_yticks([place + middle for place in range(len(rows))], _labels(plot.label, rows))
        axes.invert_yaxis()
        _dress(axes, xlabel=plot.axis)
        if len(plot.values) > 1:
            axes.legend(fontsize=7, frameon=False)
        save_picture(figure, path)


def _labels(keys: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """Short keys, such as P and V, are named."""
    return [
        ", ".join(f"{key}={row[key]}" if len(key) == 1 else str(row[key]) for key in keys)
        for row in rows
    ]


def _lines(plot: Plot, rows: Sequence[Row], path: Path) -> None:
    from matplotlib import style
    from matplotlib.figure import Figure

    panels = list(_panels(plot, rows))
    places = {value: place for place, value in enumerate(dict.fromkeys(_x(plot, rows)))}
    with style.context(STYLE):
        figure = Figure(figsize=(7, 0.6 + 2.8 * len(panels)), layout="constrained")
        every = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (title, part) in zip(every, panels, strict=True):
            _panel(axes, plot, part, places)
            axes.set_title(title, fontsize=8, color=INK)
        every[-1].set_xticks(list(places.values()), list(places))
        every[-1].set_xlabel(plot.label[0], fontsize=8, color=INK)
        save_picture(figure, path)


def _panel(axes: "Axes", plot: Plot, rows: Sequence[Row], places: dict[str, int]) -> None:
    for index, name in enumerate(dict.fromkeys(str(row[plot.series]) for row in rows)):
        own = [row for row in rows if str(row[plot.series]) == name]
        axes.plot(
            [places[value] for value in _x(plot, own)],
            [row[plot.values[0]] for row in own],
            "-o" if index < len(_KINDS) else "--o",
            markersize=3,
            linewidth=1,
            color=shade(_KINDS[index % len(_KINDS)]),
            label=name,
        )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.legend(fontsize=6, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    _dress(axes, ylabel=plot.axis)


def _x(plot: Plot, rows: Sequence[Row]) -> list[str]:
    return [str(row[plot.label[0]]) for row in rows]


def _panels(plot: Plot, rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    """Rows by the values of the panels' keys, in the order in which they come."""
    for values in dict.fromkeys(tuple(row[key] for key in plot.panels) for row in rows):
        title = ", ".join(f"{k}: {v}" for k, v in zip(plot.panels, values, strict=True))
        yield title, [row for row in rows if tuple(row[key] for key in plot.panels) == values]


def _dress(axes: "Axes", xlabel: str = "", ylabel: str = "") -> None:
    axes.set_xlabel(xlabel, fontsize=8, color=INK)
    axes.set_ylabel(ylabel, fontsize=8, color=INK)
    axes.tick_params(which="both", labelsize=7, colors=QUIET)
    axes.spines[["top", "right"]].set_visible(False)

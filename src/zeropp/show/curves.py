"""Curves over one knob: panels under each other that share their horizontal axis."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zeropp.ir.action import Kind
from zeropp.show.palette import HELD_EDGE, INK, QUIET, shade
from zeropp.show.picture import STYLE, check_picture, save_picture


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

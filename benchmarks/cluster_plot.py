"""Throughput over the link rate, one panel for each mapping and number of micro-batches."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_UNLIMITED = "unlimited"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the picture; its kind is the path's suffix."""
    mappings = list(dict.fromkeys(row["mapping"] for row in rows))
    batches = list(dict.fromkeys(row["B"] for row in rows))
    size = (5 * len(batches), 4 * len(mappings) + 1)
    figure = Figure(figsize=size)
    panels = figure.subplots(len(mappings), len(batches), squeeze=False)
    cases = list(dict.fromkeys(_label(row) for row in rows))
    for i, mapping in enumerate(mappings):
        for j, batch in enumerate(batches):
            panel = [row for row in rows if row["mapping"] == mapping and row["B"] == batch]
            _draw(panels[i][j], panel, cases)
            panels[i][j].set_title(f"shard group {mapping} hosts, B={batch}")
    lines = {line.get_label(): line for axes in panels.flat for line in axes.get_lines()}
    figure.legend(
        lines.values(), lines.keys(), loc="lower center", ncols=2 * len(batches), fontsize=8
    )
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    figure.savefig(path, dpi=120)


def _draw(axes: Axes, rows: list[dict[str, Any]], cases: list[str]) -> None:
    rates = list(dict.fromkeys(row["rate"] for row in rows))
    rates.sort(key=lambda rate: float("inf") if rate == _UNLIMITED else float(rate.split()[0]))
    for number, case in enumerate(cases):
        own = {row["rate"]: row["B"] / row["step_s"] for row in rows if _label(row) == case}
        if own:
            at = [rates.index(rate) for rate in own]
            ours = case.startswith("zeropp ")
            style = "-" if ours else "--" if case.startswith("torch") else ":"
            axes.plot(
                at,
                list(own.values()),
                style,
                marker="o",
                ms=3,
                lw=2 if ours else 1.3,
                color=f"C{number % 10}",
                label=case,
            )
    axes.set_xticks(range(len(rates)), rates, fontsize=8)
    axes.set_xlabel("rate of every host's link")
    axes.set_ylabel("micro-batches a second and pipeline")
    axes.set_ylim(bottom=0)


def _label(row: dict[str, Any]) -> str:
    """The case; a unit of all micro-batches is one line, whatever their number."""
    if row["schedule"] != "zeropp":
        return str(row["case"]).replace("zeropp ", "", 1)
    unit = "B" if row["U"] == row["B"] else str(row["U"])
    return f"zeropp {row['seam']} U={unit}"

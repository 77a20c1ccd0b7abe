"""Pictures of benchmark rows."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

from support.claim import Row
from zeropp.ir.action import Kind
from zeropp.show.palette import HELD, INK, QUIET, shade
from zeropp.show.picture import STYLE, save_picture

COLOURS = [shade(kind) for kind in (Kind.F, Kind.B, Kind.W)]
PEERS = {"breadth-first": 1.30, "1F1B + ZeRO-3": 1.68}  # what the paper claims over them
TICKS = (0.5, 0.7, 1, 1.3, 1.68, 4, 10, 30, 100)


@contextmanager
def panels(path: Path, lines: int, columns: int, width: float, height: float) -> Iterator[Any]:
    """A grid of axes, each so large in inches, that is saved at the end."""
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(STYLE):
        size = (width * columns, height * lines)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False)
        yield grid
        for axes in grid.flat:
            axes.tick_params(which="both", labelsize=7, colors=QUIET)
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_axis_on() if axes.has_data() else axes.set_axis_off()
        save_picture(figure, path)


def ranked(rows: Sequence[Row], path: Path) -> None:
    """For each setting, every side's step over that of a pipeline that is never idle."""
    settings: dict[str, list[Row]] = {}
    for row in rows:
        sizes = " ".join(f"{key}={row[key]}" for key in ("P", "B", "rounds") if key in row)
        costs = f", F B W = {row['costs']}" if "costs" in row else ""
        settings.setdefault(sizes + costs, []).append(row)
    with panels(path, ceil(len(settings) / 2), 2, 4.6, 2.4) as grid:
        for axes, (setting, sides) in zip(grid.flat, settings.items(), strict=False):
            sides.sort(key=lambda row: -float(row["most_possible"]))
            times = [row["most_possible"] for row in sides]
            theirs = [row["schedule"].startswith("torch ") for row in sides]
            colours = [HELD if peer else COLOURS[0] for peer in theirs]
            axes.barh(range(len(times)), [t - 1 for t in times], left=1, color=colours)
            for place, time in enumerate(times):
                axes.text(time, place, f" {time:.2f}", va="center", fontsize=6, color=INK)
            names = [f"{row['schedule']}, V={row['V']}" for row in sides]
            axes.set_yticks(range(len(times)), names)
            axes.set_xlim(1, 1 + 1.15 * (max(times) - 1))
            axes.set_title(f"{setting}: step / never idle", fontsize=8, color=INK)


def rates_picture(rows: Sequence[Row], path: Path) -> None:
    """Throughput over the link rate, one panel for each mapping and number of micro-batches."""
    from matplotlib import colormaps

    rows = [row for row in rows if "step_s" in row]
    cases = list(dict.fromkeys(_case(row) for row in rows))
    mappings, batches = (list(dict.fromkeys(row[key] for row in rows)) for key in ("mapping", "B"))
    rates = list(dict.fromkeys(row["rate"] for row in rows))
    rates.sort(key=lambda rate: float(rate.split()[0].replace("unlimited", "inf")))
    with panels(path, len(mappings), len(batches), 5, 4) as grid:
        for axes, (mapping, B) in zip(grid.flat, product(mappings, batches), strict=True):
            panel = [row for row in rows if (row["mapping"], row["B"]) == (mapping, B)]
            for i, case in enumerate(cases):
                own = {row["rate"]: B / row["step_s"] for row in panel if _case(row) == case}
                if not own:
                    continue
                style = "-o" if " U=" in case else "--o" if case.startswith("torch") else ":o"
                at = [rates.index(rate) for rate in own]
                colour = colormaps["tab20"](i % 20)
                axes.plot(at, list(own.values()), style, ms=3, color=colour, label=case)
            axes.set_xticks(range(len(rates)), rates)
            axes.set_title(f"shards {mapping} hosts, B={B}: micro-batches / s", fontsize=8)
            axes.set_ylim(bottom=0)
        lines = {line.get_label(): line for axes in grid.flat for line in axes.get_lines()}
        keyed = [lines[case] for case in cases]
        grid[0, 0].figure.legend(keyed, cases, loc="outside right upper", fontsize=7, frameon=False)


def _case(row: Row) -> str:
    """A unit of all micro-batches is one line, whatever their number."""
    return str(row["case"]).replace(f"U={row['B']}", "U=B")


def regimes(rows: Sequence[Row], path: Path) -> None:
    """The paper's ratios over B/P: least, median and most of all cases, by link."""
    places, links = (list(dict.fromkeys(row[key] for row in rows)) for key in ("shards", "between"))
    with panels(path, len(PEERS), len(places), 3.2, 2.6) as grid:
        for axes, (peer, place) in zip(grid.flat, product(PEERS, places), strict=True):
            for colour, link in zip(COLOURS, links, strict=False):
                found: dict[float, list[float]] = {}
                for row in rows:
                    at = row["shards"], row["between"]
                    if at == (place, link) and row["ZeroPP"] and row[peer]:
                        ratio = row[peer]["s"] / row["ZeroPP"]["s"]
                        found.setdefault(row["B"] / row["P"], []).append(ratio)
                low, mid, high = ([f(found[x]) for x in found] for f in (min, median, max))
                axes.fill_between(list(found), low, high, color=colour, alpha=0.15, linewidth=0)
                axes.plot(list(found), mid, "o-", color=colour, label=link)
            axes.axhline(PEERS[peer], color=INK, linestyle="--", linewidth=0.8)
            axes.axhline(1.0, color=QUIET, linestyle=":", linewidth=0.8)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
            low, high = axes.get_ylim()
            axes.set_yticks([t for t in TICKS if low <= t <= high])
            axes.yaxis.set_major_formatter("{x:g}")
            axes.minorticks_off()
            axes.set_title(f"over {peer}, shards {place}; B / P", fontsize=8, color=INK)
        grid[0, 0].legend(fontsize=7, frameon=False)


DRAWN = {"peers": ranked, "real": ranked, "cluster": rates_picture, "paper": regimes}

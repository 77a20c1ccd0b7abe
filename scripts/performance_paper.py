"""Tables and picture of `paper.py`'s rows: where its claims hold, where not, and by how much."""

from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from zeropp.ir.action import Kind
from zeropp.show.palette import INK, QUIET, shade
from zeropp.show.picture import STYLE, save_picture

Row = dict[str, Any]
BREADTH_FIRST, ZERO_3 = "breadth-first", "1F1B + ZeRO-3"
TARGETS = {BREADTH_FIRST: 1.30, ZERO_3: 1.68}
TICKS = {BREADTH_FIRST: (0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.5), ZERO_3: (0.5, 1, 1.68, 4, 10, 30, 100)}
_HEAD = """\
| shards | link of a node | batch | cases | / breadth-first | faster | at 1.30 | / 1F1B + ZeRO-3 | \
faster | at 1.68 | memory / ZeRO-3 | at 0.90 |
|---|---|---|---|---|---|---|---|---|---|---|---|
"""
_WORDS = (
    "Median, and least to largest, over models, meshes and V of each regime. *faster* and *at* "
    "count the cases in which that side is faster, or reaches the claim's number; memory is that "
    "of the fastest, not of the leanest. A peer that does not fit the memory at all is no case."
)
_CASES = "The largest and the smallest effects, with sizes; GiB is the fullest rank's peak."
_PICTURE_NOTE = (
    "Lines are medians and bands reach from the least to the largest of all cases; dashed, what "
    "the abstract claims, dotted, no difference."
)


def paper_tables(rows: Sequence[Row]) -> str:
    """One table for the paper's order, one for the fastest ZeroPP, and single cases."""
    parts = [_PICTURE_NOTE, _WORDS]
    for ours in ("drained", "ZeroPP"):
        parts += [f"**{ours}**", _HEAD + "\n".join(_lines(ours, rows))]
    return "\n\n".join([*parts, _CASES, _extremes(rows)])


def _lines(ours: str, rows: Sequence[Row]) -> Iterator[str]:
    keys = ("shards", "between", "regime")
    for group in dict.fromkeys(tuple(row[key] for key in keys) for row in rows):
        these = [row for row in rows if tuple(row[key] for key in keys) == group]
        cells = [*group, str(len(these))]
        for peer, target in TARGETS.items():
            found = _found(these, f"{ours} / {peer} throughput")
            cells += [_spread(found), _count(found, 1.0, above=True)]
            cells.append(_count(found, target))
        memory = _found(these, f"{ours} / {ZERO_3} memory")
        cells += [_spread(memory), str(sum(value <= 0.90 for value in memory))]
        yield f"| {' | '.join(cells)} |"


def _found(rows: Sequence[Row], key: str) -> list[float]:
    return [row[key] for row in rows if row[key] is not None]


def _spread(found: Sequence[float]) -> str:
    if not found:
        return "-"
    return f"{median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def _count(found: Sequence[float], bound: float, above: bool = False) -> str:
    return str(sum(value > bound if above else value >= bound for value in found))


def _extremes(rows: Sequence[Row]) -> str:
    """Per peer and place of the shards, the largest and smallest effect of ZeroPP."""
    head = "| shards | peer | model | P | D | V | B | link | ratio | ZeroPP | GiB | peer GiB |\n"
    lines = [head + "|---" * 12 + "|"]
    places = dict.fromkeys(row["shards"] for row in rows)
    for place, peer in product(places, TARGETS):
        key = f"ZeroPP / {peer} throughput"
        these = [row for row in rows if row["shards"] == place and row[key] is not None]
        for row in sorted(these, key=lambda row: -row[key])[:: max(1, len(these) - 1)][:2]:
            sizes = [str(row[k]) for k in ("model", "P", "D", "V", "B", "between")]
            cells = [place, peer, *sizes, f"{row[key]:.2f}", row["ZeroPP"]]
            cells += [f"{row['ZeroPP GiB']:.1f}", f"{row[f'{peer} GiB']:.1f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def paper_picture(rows: Sequence[Row], path: Path) -> None:
    """Throughput ratios over B/P, one panel for each place of the shards and each peer."""
    from matplotlib import style
    from matplotlib.figure import Figure

    places = list(dict.fromkeys(row["shards"] for row in rows))
    with style.context(STYLE):
        figure = Figure(figsize=(3.2 * len(places), 5.2), layout="constrained")
        grid = figure.subplots(2, len(places), sharex=True, sharey="row", squeeze=False)
        for (i, peer), (j, place) in product(enumerate(TARGETS), enumerate(places)):
            _panel(grid[i, j], peer, [row for row in rows if row["shards"] == place])
            grid[0, j].set_title(f"shards {place}", fontsize=8, color=INK)
            grid[i, 0].set_ylabel(f"throughput over\n{peer}", fontsize=8, color=INK)
            grid[1, j].set_xlabel("B / P", fontsize=8, color=INK)
        grid[0, 0].legend(fontsize=7, frameon=False)
        save_picture(figure, path)


def _panel(axes: Any, peer: str, rows: Sequence[Row]) -> None:
    key = f"ZeroPP / {peer} throughput"
    kinds = (Kind.F, Kind.B, Kind.W)
    for kind, link in zip(kinds, dict.fromkeys(row["between"] for row in rows), strict=False):
        found: dict[float, list[float]] = {}
        for row in rows:
            if row["between"] == link and row[key] is not None:
                found.setdefault(row["B"] / row["P"], []).append(row[key])
        xs = sorted(found)
        low, high = [min(found[x]) for x in xs], [max(found[x]) for x in xs]
        axes.fill_between(xs, low, high, color=shade(kind), alpha=0.15, linewidth=0)
        axes.plot(xs, [median(found[x]) for x in xs], "o-", color=shade(kind), label=link)
    axes.axhline(TARGETS[peer], color=INK, linestyle="--", linewidth=0.8)
    axes.axhline(1.0, color=QUIET, linestyle=":", linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    axes.set_yticks(TICKS[peer], [f"{tick:g}" for tick in TICKS[peer]])
    axes.minorticks_off()
    axes.tick_params(which="both", labelsize=7, colors=QUIET)

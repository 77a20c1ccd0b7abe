"""Write docs/performance.md and its pictures from what the benchmarks printed with --json.

Run: python scripts/performance_doc.py FOLDER [--docs FOLDER], where the first has a NAME.json for
benchmarks/NAME.py; `make bench` does both. A result that is missing is named on the page.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from performance_entries import ENTRIES, Entry, RefusedError, Row
from performance_plots import draw

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
PAGE, PICTURES = "performance.md", "performance"
MOST_ROWS = 60

OPENING = """\
<!-- Written by scripts/performance_doc.py from what the benchmarks print: edit those. -->
# Performance

What is claimed, and what is measured. Every benchmark runs all of its sides in one run, so what
counts are **ratios** of runs that were paired on one machine: small, on CPUs, and shared with other
work. Seconds and bytes are there to check the ratios; no absolute speed is claimed, and nothing
here was measured on a cluster. Where a side is simulated, its section says so. Figures that do not
hold are shown like those that do. `make bench` runs all of it and writes this page.

One line for each benchmark, with the figure that is nearest to its target, or misses it by most:
"""
SUMMARY_HEAD = """\
| benchmark | claim | figure | value | target | holds | of all figures | command |
|---|---|---|---|---|---|---|---|
"""
FIGURES_HEAD = "| figure | value | target | holds |\n|---|---|---|---|\n"
MISSED_HEAD = "| benchmark | figure | value | target |\n|---|---|---|---|\n"


@dataclass(frozen=True)
class Figure:
    """One number of a benchmark against its target."""

    name: str
    value: float
    target: float
    holds: bool
    unit: str
    at_least: bool

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "Figure":
        """From JSON; without a word about it, a target is the most that the value may be."""
        needed = (data["name"], data["value"], data["target"], data["holds"])
        return cls(*needed, data.get("unit", ""), data.get("at_least", False))

    @property
    def margin(self) -> float:
        """How far within the target, relative to it; below 0: beyond it."""
        above = self.value - self.target
        return (above if self.at_least else -above) / (abs(self.target) or 1.0)

    @property
    def shown(self) -> str:
        """The value, with as many digits as it takes to see on which side of its target it is."""
        for digits in range(3, 17):
            text = f"{self.value:.{digits}g}"
            if (float(text) < self.target) == (self.value < self.target):
                break
        return f"{text} {self.unit}".rstrip()

    @property
    def bound(self) -> str:
        """The target in words."""
        return f"at {'least' if self.at_least else 'most'} {self.target:g}"

    @property
    def verdict(self) -> str:
        """Yes or no."""
        return "yes" if self.holds else "**no**"


@dataclass(frozen=True)
class Result:
    """What one benchmark printed."""

    entry: Entry
    claim: str
    rows: tuple[Row, ...]
    figures: tuple[Figure, ...]

    @property
    def name(self) -> str:
        """Of the script."""
        return self.entry.name

    @property
    def command(self) -> str:
        """What prints it again."""
        return f"`python benchmarks/{self.name}.py`"

    @property
    def link(self) -> str:
        """To its section."""
        return f"[{self.name}](#{self.name})"


def main() -> int:
    """Write; 1 if there is nothing to write, or a file is not what a benchmark prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("results", type=Path, help="folder with a NAME.json for each benchmark")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of the page")
    wanted = parser.parse_args()
    try:
        write(wanted.results, wanted.docs)
    except RefusedError as error:
        print(f"performance_doc: {error}", file=sys.stderr)
        return 1
    return 0


def write(folder: Path, docs: Path) -> None:
    """The page and its pictures.

    Raises:
        RefusedError: no result, a result without a benchmark, or one that is not understood.
    """
    results = read_all(folder)
    pictures = docs / PICTURES
    pictures.mkdir(parents=True, exist_ok=True)
    drawn = {result.name: picture for result in results if (picture := _picture(result, pictures))}
    for old in set(pictures.glob("*.svg")) - set(drawn.values()):
        old.unlink()
    sections = [_section(result, result.name in drawn) for result in results]
    text = "\n".join([OPENING, _summary(results), _missed(results), *sections])
    (docs / PAGE).write_text(text, encoding="utf-8")


def read_all(folder: Path) -> list[Result]:
    """Results in the page's order; those of benchmarks without an entry come last."""
    names = {path.stem for path in folder.glob("*.json")}
    if not names:
        raise RefusedError(f"{folder}: no NAME.json; run a benchmark with --json into it")
    known = [entry for entry in ENTRIES if entry.name in names]
    others = sorted(names - {entry.name for entry in ENTRIES})
    return [read(folder, entry) for entry in [*known, *(Entry(name, "") for name in others)]]


def read(folder: Path, entry: Entry) -> Result:
    """One result."""
    path = folder / f"{entry.name}.json"
    if not (BENCHMARKS / f"{entry.name}.py").is_file():
        raise RefusedError(f"{path}: there is no benchmarks/{entry.name}.py")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        figures = tuple(map(Figure.of, data["figures"]))
        return Result(entry, data["claim"], tuple(data["rows"]), figures)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise RefusedError(f"{path}: not what a benchmark prints with --json: {error!r}") from error


def scripts() -> list[str]:
    """Names of all benchmarks: the files that say how to run themselves."""
    return sorted(
        path.stem
        for path in BENCHMARKS.glob("*.py")
        if f"Run: python benchmarks/{path.name}" in path.read_text(encoding="utf-8")
    )


def _summary(results: Sequence[Result]) -> str:
    lines = [_summary_line(result) for result in results]
    absent = sorted(set(scripts()) - {result.name for result in results})
    text = SUMMARY_HEAD + "\n".join(lines) + "\n"
    if absent:
        commands = ", ".join(f"`python benchmarks/{name}.py`" for name in absent)
        text += f"\nWithout a result here: {commands}.\n"
    return text


def _summary_line(result: Result) -> str:
    hold = sum(figure.holds for figure in result.figures)
    count = f"{hold} of {len(result.figures)} hold"
    cells = [result.link, result.claim]
    if result.figures:
        figure = min(result.figures, key=lambda f: (f.holds, f.margin))
        cells += [figure.name, figure.shown, figure.bound, figure.verdict]
    else:
        cells += ["-"] * 4
    return _line([*cells, count, result.command])


def _missed(results: Sequence[Result]) -> str:
    missed = [(r, figure) for r in results for figure in r.figures if not figure.holds]
    if not missed:
        return "Every figure holds.\n"
    lines = [_line([r.link, f.name, f.shown, f.bound]) for r, f in missed]
    return "## What does not hold\n\n" + MISSED_HEAD + "\n".join(lines) + "\n"


def _section(result: Result, has_picture: bool) -> str:
    parts = [f"## {result.name}", result.entry.what, f"*{result.claim}.* {_run_line(result.name)}"]
    lines = [_line([f.name, f.shown, f.bound, f.verdict]) for f in result.figures]
    parts.append(FIGURES_HEAD + "\n".join(lines))
    if not all(figure.holds for figure in result.figures):
        parts.append(result.entry.why)
    parts.append(result.entry.also)
    if has_picture:
        parts.append(f"![{result.name}]({PICTURES}/{result.name}.svg)")
    parts.append(result.entry.tables(result.rows) if result.entry.tables else _tables(result.rows))
    return "\n\n".join(part for part in parts if part) + "\n"


def _run_line(name: str) -> str:
    """What the script says about running it, as a sentence."""
    source = (BENCHMARKS / f"{name}.py").read_text(encoding="utf-8")
    line = r"Run: (python benchmarks/\S+).*?(?:;\s(.*?))?\.?\n(?:\n|\"{3})"
    found = re.search(line, source, re.DOTALL)
    if found is None:
        raise RefusedError(f"benchmarks/{name}.py: its docstring has no line `Run: python ...`")
    note = "" if found[2] is None else f" ({' '.join(found[2].split())})"
    return f"`{found[1]}`{note}."


def _tables(rows: Sequence[Row]) -> str:
    """One table for each run of rows with the same keys; the first rows of many."""
    shown, tables = rows[:MOST_ROWS], []
    for keys in dict.fromkeys(tuple(row) for row in shown):
        lines = [_line([_cell(row[key]) for key in keys]) for row in shown if tuple(row) == keys]
        tables.append("\n".join([_line(keys), "|" + "---|" * len(keys), *lines]))
    if len(rows) > MOST_ROWS:
        tables.append(f"The first {MOST_ROWS} of {len(rows)} rows; `--json` prints all.")
    return "\n\n".join(tables)


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_cell(part)}" for key, part in value.items()) or "-"
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _line(cells: Sequence[str] | Iterator[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _picture(result: Result, folder: Path) -> Path | None:
    """Draw the result's picture, if its entry has one."""
    path = folder / f"{result.name}.svg"
    if result.entry.picture is not None:
        result.entry.picture(result.rows, path)
    elif result.entry.plot is not None:
        draw(result.entry.plot, result.rows, path)
    else:
        return None
    return path


if __name__ == "__main__":
    sys.exit(main())

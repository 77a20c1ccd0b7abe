"""What every benchmark prints: a table, the figures against their targets, or JSON."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table

# tests/support and benchmarks/support are one package: ranks are run by the tests' means
sys.path.append(str(Path(__file__).parents[2] / "tests"))

Row = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """A measured value and the most, or the least, that it may be."""

    name: str
    value: float
    target: float
    unit: str = "%"
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether the value meets its target, up to rounding of the sums."""
        if self.at_least:
            return self.value >= self.target - 1e-6
        return self.value <= self.target + 1e-6

    @property
    def bound(self) -> str:
        """The target in words."""
        return f"at {'least' if self.at_least else 'most'} {self.target:g} {self.unit}".rstrip()


def run(claim: str, measure: Callable[[], tuple[Sequence[Row], Sequence[Figure]]]) -> NoReturn:
    """The whole of a benchmark without options of its own: `measure` gives rows and figures."""
    wanted = parser(claim).parse_args()
    sys.exit(report(claim, *measure(), wanted))


def parser(claim: str) -> argparse.ArgumentParser:
    """Of the options that every benchmark has."""
    made = argparse.ArgumentParser(description=claim)
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def report(
    claim: str, rows: Sequence[Row], figures: Sequence[Figure], wanted: argparse.Namespace
) -> int:
    """Print everything, as `wanted`, the options, say; the exit status, 1 if a figure misses."""
    if wanted.json:
        listed = [asdict(figure) | {"holds": figure.holds} for figure in figures]
        print(json.dumps({"claim": claim, "rows": list(rows), "figures": listed}))
    else:
        table = Table("figure", "measured", "target", "holds", title=claim)
        for f in figures:
            verdict = "yes" if f.holds else "NO"
            table.add_row(f.name, f"{f.value:.3f} {f.unit}", f.bound, verdict)
        Console().print(table)
        for row in rows:
            print("  ".join(f"{key}={value}" for key, value in row.items()))
    return 0 if all(figure.holds for figure in figures) else 1

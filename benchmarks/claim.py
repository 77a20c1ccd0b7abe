"""What every benchmark prints: a table, the figures against their targets, or JSON."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table


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


def parser(claim: str) -> argparse.ArgumentParser:
    """Of the options that every benchmark has."""
    made = argparse.ArgumentParser(description=claim)
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def report(
    claim: str,
    rows: Sequence[dict[str, Any]],
    figures: Sequence[Figure],
    wanted: argparse.Namespace,
) -> int:
    """Print everything, as `wanted`, the options, say; the exit status, 1 if a figure misses."""
    if wanted.json:
        listed = [asdict(figure) | {"holds": figure.holds} for figure in figures]
        print(json.dumps({"claim": claim, "rows": list(rows), "figures": listed}))
    else:
        _print_table(claim, figures)
        for row in rows:
            print("  ".join(f"{key}={value}" for key, value in row.items()))
    return 0 if all(figure.holds for figure in figures) else 1


def _print_table(claim: str, figures: Sequence[Figure]) -> None:
    table = Table(title=claim)
    for column in ("figure", "measured", "target", "holds"):
        table.add_column(column)
    for f in figures:
        bound = f"at {'least' if f.at_least else 'most'} {f.target:g}"
        table.add_row(f.name, f"{f.value:.3f} {f.unit}", bound, "yes" if f.holds else "NO")
    Console().print(table)

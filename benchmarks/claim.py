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
        """Whether the value is within its target, up to rounding of the sums."""
        above = self.value - self.target
        return above >= -1e-6 if self.at_least else above <= 1e-6


def report(claim: str, rows: Sequence[dict[str, Any]], figures: Sequence[Figure]) -> int:
    """Print everything; the exit status, 1 if a figure misses its target."""
    parser = argparse.ArgumentParser(description=claim)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    if parser.parse_args().json:
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
        target = f"{'at least' if f.at_least else 'at most'} {f.target:g}"
        table.add_row(f.name, f"{f.value:.3f} {f.unit}", target, "yes" if f.holds else "NO")
    Console().print(table)

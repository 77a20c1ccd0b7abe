"""Some 320 schedules are what they have always been, to the byte."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from zeropp.costs import Costs
from zeropp.generate import GENERATORS, Budget, generate
from zeropp.ir import Order, format_schedule

GOLDEN = Path(__file__).parents[1] / "golden" / "schedules.jsonl"
ROWS: list[dict[str, Any]] = [json.loads(line) for line in GOLDEN.read_text().splitlines()]


def text_of(row: dict[str, Any]) -> str:
    sizes = row["P"], row["V"], row["B"]
    costs = None
    if row.keys() & {"costs", "latency", "scaled"}:
        times = row.get("costs", (1, 1, 1))
        costs = Costs.uniform(row["P"], row["V"], *times, latency=row.get("latency", 0.0))
        for stage, factor in row.get("scaled", ()):
            costs = costs.scaled(stage % (row["P"] * row["V"]), factor)
    budget = Budget(*row["budget"]) if "budget" in row else None
    order = Order(row["name"], **row.get("order", {}))
    return format_schedule(generate(order, *sizes, costs=costs, budget=budget))


@pytest.mark.parametrize("name", GENERATORS)
def test_schedules_are_byte_equal(name: str) -> None:
    rows = [row for row in ROWS if row["name"] == name]
    assert len(rows) >= 6
    for row in rows:
        digest = hashlib.sha256(text_of(row).encode()).hexdigest()
        assert digest == row["sha256"], {key: row[key] for key in row if key != "sha256"}


def test_there_are_more_than_three_hundred() -> None:
    assert len(ROWS) > 300

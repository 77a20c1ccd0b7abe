"""Plans as TOML: the fields of `Plan`, the micro-batch, and what was predicted.

micro_batch_size = 1
pp_size = 4
...                     the fields of `Plan`; those that are not set are left out
[costs]                 forward, backward, weight for each stage, in seconds, and the other fields
                        of `Costs` that are not as by default
[predicted]             what the step is predicted to take: step_s, peak_bytes and more
[said]                  what the planner says of it: family, and why, a list of sentences
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import tomli_w

from zeropp.costs import Costs
from zeropp.ir.files import write_text
from zeropp.ir.toml_file import make, read_toml, table_of, whole
from zeropp.plan import Plan

COMPARED = frozenset({"step_s", "peak_bytes"})  # of a prediction, with what training measures


@dataclass(frozen=True)
class SavedPlan:
    """What a plan file holds.

    Attributes:
        plan: how the model is laid over ranks.
        micro_batch_size: sequences in a micro-batch.
        predicted: what the plan was predicted to take, as plain data; empty if it was not.
        said: what the planner says of it, as plain data; empty if none made it.
    """

    plan: Plan
    micro_batch_size: int
    predicted: Mapping[str, Any] = field(default_factory=dict)
    said: Mapping[str, Any] = field(default_factory=dict)


def write_plan(saved: SavedPlan, path: Path) -> None:
    """Write a plan; `read_plan` reads an equal one back."""
    write_text("output", path, format_plan(saved))


def format_plan(saved: SavedPlan) -> str:
    """The text of a plan file."""
    values = {"micro_batch_size": saved.micro_batch_size} | table_of(saved.plan)
    if saved.plan.costs is not None:
        values["costs"] = _changed(saved.plan.costs)
    if saved.predicted:
        values["predicted"] = dict(saved.predicted)
    if saved.said:
        values["said"] = dict(saved.said)
    return tomli_w.dumps(values)


def parse_plan(text: str) -> SavedPlan:
    """The plan in the text of a plan file."""
    return _from_table(tomllib.loads(text))


def read_plan(path: Path) -> SavedPlan:
    """The plan in a file.

    Raises:
        ValueError: unreadable, or a field that is missing, unknown or out of range.
    """
    return read_toml("plan", path, _from_table)


def _from_table(values: dict[str, Any]) -> SavedPlan:
    predicted, said = (values.pop(name, {}) for name in ("predicted", "said"))
    for name, table in (("predicted", predicted), ("said", said)):
        if not isinstance(table, dict):
            raise ValueError(f"{name} must be a table, got {table!r}")
    for name in COMPARED & predicted.keys():
        value = predicted[name]
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise ValueError(f"predicted.{name} must be a number above 0, got {value!r}")
    size = whole("micro_batch_size", values.pop("micro_batch_size", None))
    return SavedPlan(make(Plan, values), size, predicted, said)


def _changed(costs: Costs) -> dict[str, Any]:
    """The fields that are not as by default."""
    usual = {one.name: (one.default, (one.default,) * costs.num_stages) for one in fields(costs)}
    return {name: value for name, value in vars(costs).items() if value not in usual[name]}

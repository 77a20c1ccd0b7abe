"""Plan files."""

import tomllib
from pathlib import Path

import pytest

from zeropp.build import program_of
from zeropp.costs import Costs
from zeropp.plan import Plan
from zeropp.planner import SavedPlan, read_plan, write_plan

PLAN = Plan(
    2, 2, 8, "zeropp", 4, "carry", slots=9, dp_shard=4, split=(1, 2, 3, 4), recompute="full"
)


@pytest.mark.parametrize(
    "plan",
    [
        Plan(),
        PLAN,
        Plan(2, 2, 4, "zb-v", slots=5, refine=True, costs=Costs.uniform(2, 2, latency=0.2)),
        Plan(2, 1, 4, "zeropp", costs=Costs((1.0, 2.0), (1.0, 1.5), (0.5, 1.0), 0.1)),
        Plan(2, 1, 4, costs=Costs.uniform(2, 1, gather=(1.0, 2.0), message=3.0)),
    ],
)
def test_a_plan_is_read_as_it_was_written(plan: Plan, tmp_path: Path) -> None:
    saved = SavedPlan(plan, 3, {"step_s": 1.5, "memory": [{"gathered": 2.0}]})
    write_plan(saved, tmp_path / "plan.toml")
    read = read_plan(tmp_path / "plan.toml")
    assert read == saved
    assert program_of(read.plan) == program_of(plan)


def test_costs_that_are_as_by_default_are_left_out(tmp_path: Path) -> None:
    costs = Costs.uniform(2, 1, latency=0.5, message=3.0, gather=0.0, until_weight=1.0)
    write_plan(SavedPlan(Plan(2, 1, 4, costs=costs), 1), tmp_path / "plan.toml")
    table = tomllib.loads((tmp_path / "plan.toml").read_text("utf-8"))
    ones = [1.0, 1.0]
    passes = dict.fromkeys(("forward", "backward", "weight"), ones)
    assert table["costs"] == passes | {"latency": 0.5, "message": [3.0, 3.0]}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("micro_batch_size = 1", "", "micro_batch_size must be a whole number"),
        ("pp_size = 2", "pp_sise = 2", "unknown field pp_sise"),
        ("pp_size = 2", "pp_size = 0", "pp_size must be at least 1"),
        ("pp_size = 2", "pp_size 2", "cannot read"),
        ('recompute = "full"', 'recompute = "all"', "recompute must be one of"),
    ],
)
def test_bad_plans_name_file_and_field(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "plan.toml"
    write_plan(SavedPlan(PLAN, 1), path)
    path.write_text(path.read_text("utf-8").replace(old, new, 1), "utf-8")
    with pytest.raises(ValueError, match=f"plan: .*{message}"):
        read_plan(path)

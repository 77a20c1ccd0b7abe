"""The search for the best layout of a model, and what it knows of models and hardware."""

from zeropp.planner.plan_file import SavedPlan, read_plan, write_plan
from zeropp.planner.planner import Answer, best_plan, over_unit_sizes
from zeropp.planner.predict import Prediction
from zeropp.planner.problem import Problem

__all__ = [
    "Answer",
    "Prediction",
    "Problem",
    "SavedPlan",
    "best_plan",
    "over_unit_sizes",
    "read_plan",
    "write_plan",
]

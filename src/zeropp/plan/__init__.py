"""Floor 4: how a model is laid over ranks, and the search for the best way."""

from zeropp.costs import Recompute
from zeropp.plan.balance import Balance, balance
from zeropp.plan.plan import Plan
from zeropp.plan.plan_file import SavedPlan, read_plan, write_plan
from zeropp.plan.planner import Answer, best_plan
from zeropp.plan.prediction import Prediction
from zeropp.plan.problem import Problem
from zeropp.plan.tradeoff import over_unit_sizes

__all__ = [
    "Answer",
    "Balance",
    "Plan",
    "Prediction",
    "Problem",
    "Recompute",
    "SavedPlan",
    "balance",
    "best_plan",
    "over_unit_sizes",
    "read_plan",
    "write_plan",
]

"""Floor 4: how a model is laid over ranks."""

from zeropp.plan.plan import Plan, Recompute, WeightGrads

__all__ = ["Plan", "Recompute", "WeightGrads"]

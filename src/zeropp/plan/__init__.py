"""Floor 4: how a model is laid over ranks."""

from zeropp.plan.plan import Plan, Recompute

__all__ = ["Plan", "Recompute"]

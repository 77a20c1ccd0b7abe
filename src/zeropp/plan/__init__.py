"""Floor 4: how a model is laid over ranks."""

from zeropp.costs import Recompute
from zeropp.plan.plan import Plan

__all__ = ["Plan", "Recompute"]

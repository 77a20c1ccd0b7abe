"""Floor 4: how a model is laid over ranks."""

from zeropp.plan.plan import Plan

__all__ = ["Plan"]

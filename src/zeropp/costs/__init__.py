"""Floor 1: how long actions take."""

from zeropp.costs.uniform import UniformCosts

__all__ = ["UniformCosts"]

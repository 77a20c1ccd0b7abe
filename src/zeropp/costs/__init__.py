"""Floor 1: how long actions take, what they need, and the makespan that nothing can beat."""

from zeropp.costs.costs import Costs
from zeropp.costs.floor import floor
from zeropp.costs.machine import Bytes, PerStage, Traffic, at_stage
from zeropp.costs.recompute import Recompute

__all__ = ["Bytes", "Costs", "PerStage", "Recompute", "Traffic", "at_stage", "floor"]

"""What a stage costs, and the makespan that nothing can beat."""

from zeropp.costs.costs import Costs
from zeropp.costs.floor import floor
from zeropp.costs.machine import Bytes, PerStage, Traffic, at_stage

__all__ = ["Bytes", "Costs", "PerStage", "Traffic", "at_stage", "floor"]

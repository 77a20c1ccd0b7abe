"""What a stage costs, and the makespan that nothing can beat."""

from zeropp.costs.costs import Costs
from zeropp.costs.least import floor

__all__ = ["Costs", "floor"]

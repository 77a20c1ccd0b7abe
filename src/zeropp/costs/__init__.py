"""Floor 1: how long actions take, and the makespan that nothing can beat."""

from zeropp.costs.costs import Costs
from zeropp.costs.floor import floor

__all__ = ["Costs", "floor"]

"""Floor 1: how long actions take, what they need, and the makespan that nothing can beat."""

from zeropp.costs.costs import Costs
from zeropp.costs.floor import floor
from zeropp.costs.machine import Bytes, Traffic

__all__ = ["Bytes", "Costs", "Traffic", "floor"]

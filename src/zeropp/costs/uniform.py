"""Uniform costs: every stage takes the same time for F, B and W."""

import math
from dataclasses import dataclass

from zeropp.ir.action import Action, Kind


@dataclass(frozen=True)
class UniformCosts:
    """Durations of one micro-batch's F, B and W through a whole rank; a chunk takes 1/V of them.

    Raises:
        ValueError: a duration is negative or not finite, or F is not positive.
    """

    forward: float = 1.0
    backward: float = 1.0
    weight: float = 1.0
    num_chunks: int = 1

    def __post_init__(self) -> None:
        for name in ("forward", "backward", "weight"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"costs: {name} must be a finite number, 0 or more; got {value}")
        if self.forward <= 0:
            raise ValueError(f"costs: forward must be above 0, got {self.forward}")

    def duration(self, action: Action) -> float:
        """Time of a compute action."""
        whole = {
            Kind.F: self.forward,
            Kind.B: self.backward,
            Kind.W: self.weight,
            Kind.BW: self.backward + self.weight,
        }
        return whole[action.kind] / self.num_chunks

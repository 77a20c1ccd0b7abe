"""An order is what a user asks a generator for: which schedule, made by which knobs."""

from dataclasses import dataclass, fields
from typing import Literal

Auto = Literal["auto"]


@dataclass(frozen=True)
class Order:
    """Name and knobs of a schedule; a knob that is None takes the schedule's default."""

    schedule: str = "zeropp"
    """Name of the schedule; `zeropp schedules` lists them."""
    unit_size: int | Auto | None = None
    """U, micro-batches in a scheduling unit; without it, P, or the whole batch if that is less;
    auto: the best within the slots."""
    seam: str | None = None
    """What happens between units of zeropp: carry (default: strict, or eager where that is faster),
    strict, eager or drain."""
    slots: int | Auto | None = None
    """Most activations, one chunk of one micro-batch each, on a rank; for schedules that have this
    knob or are refined."""
    refine: bool = False
    """Improve the order for the costs that it is made for, within the slots given or held."""

    @property
    def order(self) -> "Order":
        """The order alone, where this is part of more."""
        return Order(**{field.name: getattr(self, field.name) for field in fields(Order)})

    @property
    def knobs(self) -> dict[str, int | str]:
        """The knobs that are given, by name."""
        names = ("unit_size", "seam", "slots")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def __str__(self) -> str:
        """Such as `zeropp unit_size=4 seam=drain`."""
        refined = ["refined"] if self.refine else []
        return " ".join([self.schedule, *(f"{k}={v}" for k, v in self.knobs.items()), *refined])

"""Numbers and their bounds, which the annotations of a dataclass's fields state."""

from functools import cache
from typing import Annotated, Any, NamedTuple, get_args, get_type_hints


class Bounds(NamedTuple):
    """What a number may be at least and at most; `above`: more than the least."""

    least: float
    most: float
    above: bool = False

    def refuse(self, name: str, value: float) -> None:
        """Raise ValueError if `value` is out of bounds, or is no number at all."""
        if (self.least < value if self.above else self.least <= value) and value <= self.most:
            return
        wanted = f"above {self.least:g}" if self.above else f"at least {self.least:g}"
        if not self.least and not self.above:
            wanted = "0 or more"
        if value > self.most:
            wanted = f"at most {self.most:g}"
        raise ValueError(f"{name} must be {wanted}, got {value}")


# What is counted ends where an ordinary machine does; what is measured, where floats lose sense.
Size = Annotated[int, Bounds(1, 10**7)]
Count = Annotated[int, Bounds(0, 10**9)]
Steps = Annotated[int, Bounds(1, 10**9)]
Seed = Annotated[int, Bounds(-(2**63), 2**63 - 1)]
Positive = Annotated[float, Bounds(0, 1e18, above=True)]
Share = Annotated[float, Bounds(0, 1 - 2**-30)]
Amount = Annotated[float, Bounds(0, 1e18)]


def check_numbers(owner: Any, prefix: str = "") -> None:
    """Raise ValueError for a field of a dataclass that is out of its bounds, with its name."""
    kind: type = type(owner)
    for name, bounds in _bounds_of(kind):
        given = getattr(owner, name)
        for value in given if isinstance(given, tuple) else (given,):
            if isinstance(value, (int, float)):  # not None, nor a word such as auto
                bounds.refuse(prefix + name, value)


@cache
def _bounds_of(kind: type) -> tuple[tuple[str, Bounds], ...]:
    hints = get_type_hints(kind, include_extras=True)
    found = ((name, _found(hint)) for name, hint in hints.items())
    return tuple((name, bounds) for name, bounds in found if bounds is not None)


def _found(hint: Any) -> Bounds | None:
    """The bounds within an annotation, of whatever else it consists."""
    if isinstance(hint, Bounds):
        return hint
    return next(filter(None, map(_found, get_args(hint))), None)

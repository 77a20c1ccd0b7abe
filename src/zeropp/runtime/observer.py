"""Who wants to know when the phases of a step's actions end: the seam for traces and rehearsals."""

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from zeropp.ir import Action


class Phase(StrEnum):
    """What of an action has just ended."""

    BEGIN = "begin"  # the executor has come to it
    INPUT = "input"  # its input is there
    PARAMETERS = "parameters"  # so are its stage's parameters
    COMPUTE = "compute"


Lap = Callable[[Action, Phase], None]


class Laps(Protocol):
    """Told of every phase of a step."""

    def lap(self, action: Action, phase: Phase) -> None:
        """`phase` of `action` ends now."""


class Several:
    """Tells each of several, in their order."""

    def __init__(self, *each: Laps) -> None:
        self._each = each

    def lap(self, action: Action, phase: Phase) -> None:
        """`phase` of `action` ends now."""
        for one in self._each:
            one.lap(action, phase)


def no_lap(action: Action, phase: Phase) -> None:
    """Measure nothing."""

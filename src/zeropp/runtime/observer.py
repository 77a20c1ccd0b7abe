"""Who is told when the phases of a step's actions end: the seam for traces and rehearsals."""

from enum import StrEnum
from typing import Protocol

from zeropp.ir.action import Action


class Phase(StrEnum):
    """What of an action has just ended."""

    BEGIN = "begin"  # the executor has come to it
    INPUT = "input"  # its input is there
    PARAMETERS = "parameters"  # so are its stage's parameters
    COMPUTE = "compute"


class Observer(Protocol):
    """Told of every phase of a step, on the thread that computes."""

    def observe(self, action: Action, phase: Phase) -> None:
        """`phase` of `action` ends now."""

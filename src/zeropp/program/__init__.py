"""From a schedule to the program that ranks execute, and the proof that it is sound."""

from zeropp.ir.program import Policy
from zeropp.program.derived import forward_only_program, without_collectives
from zeropp.program.lowering import lower
from zeropp.program.remarks import warnings
from zeropp.program.verifier import (
    InvalidProgramError,
    Violation,
    require_collectives,
    require_valid,
    verify,
)
from zeropp.program.within import require_split, verify_within

__all__ = [
    "InvalidProgramError",
    "Policy",
    "Violation",
    "forward_only_program",
    "lower",
    "require_collectives",
    "require_split",
    "require_valid",
    "verify",
    "verify_within",
    "warnings",
    "without_collectives",
]

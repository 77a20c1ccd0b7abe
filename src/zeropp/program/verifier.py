"""Proof before launch: rules that a schedule and a program must hold, one file each."""

from dataclasses import dataclass

from zeropp.ir.collector import collector_paused
from zeropp.ir.program import Program
from zeropp.ir.schedule import Schedule
from zeropp.program.channels import channels
from zeropp.program.complete import complete
from zeropp.program.deadlock import compute_deadlock, rendezvous_deadlock
from zeropp.program.economy import economy
from zeropp.program.in_order import messages_in_time, precedence
from zeropp.program.residency import residency
from zeropp.program.slots import slots
from zeropp.program.violation import Violation


@dataclass(frozen=True)
class Limits:
    """Bounds to hold; None: no bound (`max_resident`: the program's own).

    Attributes:
        slots: most activations, one chunk of one micro-batch each, on any rank.
        max_resident: most stages of a rank whose parameters are gathered at once.
    """

    slots: int | None = None
    max_resident: int | None = None


class InvalidProgramError(ValueError):
    """A schedule or program breaks a rule; the message lists the first violations."""


@collector_paused
def verify(subject: Schedule | Program, limits: Limits | None = None) -> tuple[Violation, ...]:
    """All violations of a schedule, or of a program and its schedule; empty if it is sound.

    Rules on messages and collectives are checked only where the compute order is sound, since they
    speak of its actions; rules on who blocks whom only where the others hold.
    """
    limits = limits or Limits()
    schedule = subject.schedule if isinstance(subject, Program) else subject
    found = list(complete(schedule)) or [*precedence(schedule), *slots(schedule, limits.slots)]
    if found:
        return tuple(found)
    if isinstance(subject, Schedule):
        found = list(compute_deadlock(schedule))
    else:
        found = [
            *messages_in_time(subject),
            *channels(subject),
            *residency(subject, limits.max_resident),
            *economy(subject),
        ] or list(rendezvous_deadlock(subject))
    return tuple(found)


def require_valid(program: Program, limits: Limits | None = None) -> Program:
    """The program itself.

    Raises:
        InvalidProgramError: it breaks a rule.
    """
    if violations := verify(program, limits):
        shown = "\n".join(map(str, violations[:5]))
        more = f"\n... and {len(violations) - 5} more" if len(violations) > 5 else ""
        raise InvalidProgramError(f"{len(violations)} violations:\n{shown}{more}")
    return program


__all__ = [
    "InvalidProgramError",
    "Limits",
    "Violation",
    "require_valid",
    "verify",
]


def require_collectives(program: Program) -> None:
    """Raise ValueError unless the program gathers and reduces, as sharded parameters need."""
    if program.shard is None:
        raise ValueError(
            "program: it has no collectives, and parameters are sharded or cast; make it with "
            "--shard unit, step or microbatch"
        )

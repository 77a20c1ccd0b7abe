"""Proof before launch: a schedule or a program is held against every rule."""

from collections.abc import Iterable
from dataclasses import dataclass

from zeropp.ir.action import collector_paused
from zeropp.ir.program import Program
from zeropp.ir.schedule import Schedule
from zeropp.program.rules import (
    Finding,
    channels,
    complete,
    compute_deadlock,
    economy,
    messages_in_time,
    precedence,
    rendezvous_deadlock,
    residency,
    slots,
)

_AROUND = 4


@dataclass(frozen=True)
class Limits:
    """Bounds to hold; None: no bound (`max_resident`: the program's own).

    Attributes:
        slots: most activations, one chunk of one micro-batch each, on any rank.
        max_resident: most stages of a rank whose parameters are gathered at once.
    """

    slots: int | None = None
    max_resident: int | None = None


@dataclass(frozen=True)
class Violation:
    """One broken rule.

    Attributes:
        rule: the rule's name.
        message: what is wrong, in words.
        rank: where; None if it concerns the whole.
        position: index of the action in its rank's order; None if an action is missing.
        context: the actions around it, the offending one in brackets.
    """

    rule: str
    message: str
    rank: int | None = None
    position: int | None = None
    context: str = ""

    def __str__(self) -> str:
        where = "" if self.rank is None else f"rank {self.rank}"
        where += "" if self.position is None else f", position {self.position}"
        head = f"{self.rule}: " + (f"{where}: " if where else "") + self.message
        return f"{head}\n    {self.context}" if self.context else head


class InvalidProgramError(ValueError):
    """A schedule or program breaks a rule; the message lists the first violations."""


@collector_paused()
def verify(subject: Schedule | Program, limits: Limits | None = None) -> tuple[Violation, ...]:
    """All violations of a schedule, or of a program and its schedule; empty if it is sound.

    Rules on messages and collectives are checked only where the compute order is sound, since they
    speak of its actions; rules on who blocks whom only where the others hold.
    """
    limits = limits or Limits()
    schedule = subject.schedule if isinstance(subject, Program) else subject
    found = list(complete(schedule)) or [*precedence(schedule), *slots(schedule, limits.slots)]
    if found:
        return _violations(found, schedule)
    if isinstance(subject, Schedule):
        return _violations(compute_deadlock(subject), subject)
    found = [
        *messages_in_time(subject),
        *channels(subject),
        *residency(subject, limits.max_resident),
        *economy(subject),
    ]
    return _violations(found or rendezvous_deadlock(subject), subject)


def _violations(found: Iterable[Finding], subject: Schedule | Program) -> tuple[Violation, ...]:
    return tuple(_violation(subject, *finding) for finding in found)


def _violation(
    subject: Schedule | Program, rule: str, rank: int | None, position: int | None, message: str
) -> Violation:
    if rank is None or position is None:
        return Violation(rule, message, rank)
    order = subject.actions[rank]
    first, end = max(0, position - _AROUND), position + _AROUND + 1
    shown = [f"[{a}]" if i == position else str(a) for i, a in enumerate(order[first:end], first)]
    before, after = "... " if first else "", " ..." if end < len(order) else ""
    context = before + " ".join(shown) + after
    return Violation(rule, f"{order[position]} {message}", rank, position, context)


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


def require_collectives(program: Program) -> None:
    """Raise ValueError unless the program gathers and reduces, as sharded parameters need."""
    if program.shard is None:
        raise ValueError(
            "program: it has no collectives, and parameters are sharded or cast; make it with "
            "--shard unit, step or microbatch"
        )

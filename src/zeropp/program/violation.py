"""What a rule reports: where, which action, what is wrong, and the line around it."""

from collections.abc import Sequence
from dataclasses import dataclass

from zeropp.ir.action import Action

_AROUND = 4


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


def at(rule: str, rank: int, position: int, order: Sequence[Action], message: str) -> Violation:
    """A violation by the action at `position` of `order`; the message starts with the action."""
    first = max(0, position - _AROUND)
    shown = [
        f"[{action}]" if index == position else str(action)
        for index, action in enumerate(order[first : position + _AROUND + 1], start=first)
    ]
    before = "... " if first else ""
    after = " ..." if position + _AROUND + 1 < len(order) else ""
    return Violation(
        rule, f"{order[position]} {message}", rank, position, before + " ".join(shown) + after
    )

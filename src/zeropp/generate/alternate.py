"""One forward, one backward: the steady phase that several schedules share."""

from collections.abc import Sequence

from zeropp.ir.action import Action


def alternate(
    forwards: Sequence[Action], backwards: Sequence[Action], warmup: int
) -> tuple[Action, ...]:
    """`warmup` forwards, then forward and backward in turn, then the remaining backwards."""
    warmup = min(warmup, len(forwards))
    steady = zip(forwards[warmup:], backwards, strict=False)
    pairs = [action for pair in steady for action in pair]
    return (*forwards[:warmup], *pairs, *backwards[len(forwards) - warmup :])

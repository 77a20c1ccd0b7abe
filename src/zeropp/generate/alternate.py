"""One forward, one backward: the steady phase that several schedules share."""

from collections import deque
from collections.abc import Iterator, Sequence

from zeropp.ir.action import Action, Kind


def alternate(
    forwards: Sequence[Action], backwards: Sequence[Action], warmup: int
) -> tuple[Action, ...]:
    """`warmup` forwards, then forward and backward in turn, then the remaining backwards."""
    warmup = min(warmup, len(forwards))
    steady = zip(forwards[warmup:], backwards, strict=False)
    pairs = [action for pair in steady for action in pair]
    return (*forwards[:warmup], *pairs, *backwards[len(forwards) - warmup :])


def alternate_split(
    forwards: Sequence[Action], backwards: Sequence[Action], warmup: int, delay: int
) -> Iterator[Action]:
    """`alternate`, where `backwards` are B: each B is followed by the oldest waiting W.

    The first `delay` pairs run no W, so that many W wait from then on; they run last. A B without
    a forward before it (cool-down) is followed by a W in any case.
    """
    waiting: deque[Action] = deque()
    paired = len(forwards) - min(warmup, len(forwards))
    yield from forwards[: len(forwards) - paired]
    for count, backward in enumerate(backwards):
        if count < paired:
            yield forwards[len(forwards) - paired + count]
        yield backward
        waiting.append(Action(Kind.W, backward.stage, backward.microbatch))
        if count >= min(delay, paired):
            yield waiting.popleft()
    yield from waiting

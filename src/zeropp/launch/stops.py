"""A wish to stop, told by a signal: the first is obeyed in good order, a second at once."""

import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # Slurm sends the last before a time limit
_ONE_WISH_S = 1.0  # in which a terminal's signal and the launcher's are the same


def at_once(wish: signal.Signals) -> None:
    """End this process."""
    os._exit(128 + wish)


class Stops:
    """Hears the signals that end a run, while it is entered; in the main thread.

    Args:
        first: called with the first signal, besides noting it.
        again: called with one that comes later.

    Attributes:
        received: the first signal, or None.
    """

    def __init__(
        self,
        first: Callable[[signal.Signals], None] | None = None,
        again: Callable[[signal.Signals], None] = at_once,
    ) -> None:
        self.received: signal.Signals | None = None
        self._first, self._again = first, again
        self._since = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = {wish: signal.signal(wish, self._hear) for wish in STOPS}
        return self

    def __exit__(self, *_: object) -> None:
        for wish, handler in self._before.items():
            signal.signal(wish, handler)

    def _hear(self, number: int, _: FrameType | None) -> None:
        wish, now = signal.Signals(number), time.monotonic()
        if self.received is None:
            self.received, self._since = wish, now
            if self._first is not None:
                self._first(wish)
        elif now - self._since > _ONE_WISH_S:
            self._again(wish)

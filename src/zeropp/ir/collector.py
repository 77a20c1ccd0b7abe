"""Python's cyclic collector, off while very many actions are made."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """With Python's cyclic collector off, if it was on; decorates what makes very many actions.

    Actions and spans never form cycles, yet each is counted as garbage to look for: walking
    millions of them again and again takes a third of the time of a large schedule.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()

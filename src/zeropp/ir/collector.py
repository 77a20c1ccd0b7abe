"""Python's cyclic collector, kept from what is no garbage: very many actions, torch's modules."""

import atexit
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


_SELDOM = (100_000, 50, 1_000)
_USUAL = (700, 10, 10)


def search_seldom() -> None:
    """Look for garbage seldom while modules are loaded, and at the end not once more.

    Torch's modules are a million objects, and all stay: looking among them takes an eighth of the
    time in which they are loaded, and a second when a process ends.
    """
    gc.set_threshold(*_SELDOM)
    atexit.register(gc.freeze)


def search_what_comes() -> None:
    """Look as often as Python usually does, but only among what is made from here on."""
    gc.freeze()
    gc.set_threshold(*_USUAL)

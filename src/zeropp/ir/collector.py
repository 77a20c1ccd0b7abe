"""Python's cyclic collector, kept from what is no garbage: very many actions, torch's modules."""

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


@contextmanager
def loading() -> Iterator[None]:
    """With the collector off while modules are loaded, among which it never looks afterwards.

    Torch's modules are a million objects, and all stay: looking among them takes an eighth of the
    time in which they are loaded, and a second when a process ends.
    """
    with collector_paused():
        yield
        gc.freeze()

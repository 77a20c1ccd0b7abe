"""A terminal kept for one writer: what this process and its children print goes through it."""

import os
import select
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_PAUSE_S = 0.4  # between looks, where nothing is printed
_LAST_S = 0.2  # in which the last words come, once all is over


@contextmanager
def relayed(take: Callable[[list[str]], None]) -> Iterator[None]:
    """While the body runs, standard output and error, where they are terminals, are a pipe.

    Args:
        take: is called by a thread with the lines that came, some twice a second with none, and in
            the end, when nobody writes any more.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    source, sink = os.pipe()
    kept = {fd: os.dup(fd) for fd in (1, 2) if os.isatty(fd)}
    for fd in kept:
        os.dup2(sink, fd)
    os.close(sink)
    over = threading.Event()
    reader = threading.Thread(target=_read, args=(source, take, over), daemon=True)
    reader.start()
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for fd, before in kept.items():
            os.dup2(before, fd)
            os.close(before)
        over.set()
        reader.join()
        os.close(source)


def _read(source: int, take: Callable[[list[str]], None], over: threading.Event) -> None:
    """Until the body is over and nothing comes; helpers of children may hold the pipe open."""
    left, ended = b"", False
    while not ended:
        ready, _, _ = select.select([source], [], [], _LAST_S if over.is_set() else _PAUSE_S)
        new = os.read(source, 1 << 16) if ready else b""
        ended = over.is_set() and not new
        *lines, left = (left + new).split(b"\n")
        if ended and left:
            lines, left = [left], b""
        take([line.decode(errors="replace").rstrip("\r") for line in lines])
        if ready and not new:  # nobody can write any more
            over.wait()
            return

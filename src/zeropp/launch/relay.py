"""A terminal kept for one writer: what this process and its children print goes through it."""

import os
import select
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial

_Take = Callable[[list[str]], None]

_PAUSE_S = 0.25  # between looks, where nothing is printed
_LAST_S = 0.2  # in which the last words come, once all is over


@contextmanager
def relayed(take: _Take) -> Iterator[None]:
    """While the body runs, standard output and error, where they are terminals, are a pipe.

    Args:
        take: is called by a thread with the lines that came, some times a second with none, and in
            the end, when nobody writes any more. Should it fail, lines go to the terminal as they
            are: no rank waits for somebody to read.
    """
    source, sink = os.pipe()
    kept = {fd: os.dup(fd) for fd in (1, 2) if os.isatty(fd)}
    over = threading.Event()
    plain = next(iter(kept.values()), 2)
    reader = threading.Thread(target=_read, args=(source, take, over, plain), daemon=True)
    reader.start()
    try:  # Ctrl-C may come at any moment from here on
        _turn(dict.fromkeys(kept, sink))
        yield
    finally:
        _turn(kept)
        os.close(sink)
        over.set()
        reader.join()
        for fd in (source, *kept.values()):
            os.close(fd)


def _turn(to: Mapping[int, int]) -> None:
    """Let standard output and error be others from here on."""
    sys.stdout.flush()
    sys.stderr.flush()
    for fd, other in to.items():
        os.dup2(other, fd)


def _read(source: int, take: _Take, over: threading.Event, plain: int) -> None:
    """Until the body is over and nothing comes; helpers of children may hold the pipe open."""
    left, ended = b"", False
    while not ended:
        ready, _, _ = select.select([source], [], [], _LAST_S if over.is_set() else _PAUSE_S)
        new = os.read(source, 1 << 16) if ready else b""
        ended = over.is_set() and not new
        *lines, left = (left + new).split(b"\n")
        if ended and left:
            lines.append(left)
        told = [line.decode(errors="replace").rstrip("\r") for line in lines]
        try:
            take(told)
        except Exception:  # whatever it is, the run's words are more than the view
            take = partial(_write, plain)
            take([*traceback.format_exc().splitlines(), *told])
        if ready and not new:  # nobody can write any more
            over.wait()


def _write(terminal: int, lines: list[str]) -> None:
    with suppress(OSError):  # it is gone
        os.write(terminal, "".join(f"{line}\r\n" for line in lines).encode())

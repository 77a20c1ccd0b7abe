"""One owner of a folder: a lock that says who holds it, and ends with the process that does."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

from zeropp.ir.files import explained

_PAUSE_S = 0.1


@contextmanager
def owned(what: str, file: Path, patience_s: float = 0.0) -> Iterator[None]:
    """Hold the lock file for the body; the system takes it from a process that is gone.

    Args:
        what: an option's name, with which complaints begin.
        file: made if it is not there, in a folder that is.
        patience_s: seconds to wait for an owner that is about to end.

    Raises:
        ValueError: another process holds it; says which.
    """
    with explained(f"{what}: cannot write", file):
        opened = file.open("a+", encoding="utf-8")
    with opened:
        until = time.monotonic() + patience_s
        while not _taken(what, file, opened.fileno()):
            if time.monotonic() >= until:
                opened.seek(0)
                raise ValueError(
                    f"{what}: {file.parent} belongs to a run that goes on ({opened.read().strip()})"
                    "; stop it, or choose another --run.name"
                )
            time.sleep(_PAUSE_S)
        with explained(f"{what}: cannot write", file):
            opened.truncate(0)
            # past the buffer, which would be written once more when the file is closed, and to the
            # disk, from which other hosts read it
            os.write(
                opened.fileno(), f"host {socket.gethostname()}, process {os.getpid()}\n".encode()
            )
            os.fsync(opened.fileno())
        yield


def _taken(what: str, file: Path, opened: int) -> bool:
    with explained(f"{what}: cannot lock", file):
        try:
            flock(opened, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            return False
    return True

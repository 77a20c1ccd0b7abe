"""Looking at processes: those that another started, whether they run, a port for them."""

import socket
from contextlib import suppress
from pathlib import Path


def ranks_of(launcher: int) -> list[int]:
    """The process ids of the ranks that `launcher` started, from the server that forks them."""
    servers = [child for child in children(launcher) if b"forkserver" in _command(child)]
    return [rank for server in servers for rank in children(server)]


def descendants(pid: int) -> list[int]:
    """The processes below `pid`, each before its own."""
    return [found for child in children(pid) for found in (child, *descendants(child))]


def children(pid: int) -> list[int]:
    """The processes that any thread of `pid` started, oldest first.

    Found from below: the kernel's list above them is a thread's, whose children go to another
    thread when it ends, unseen by who reads one list after the other.
    """
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            _, _, fields = path.read_text().rpartition(")")
            _, parent, *_ = fields.split()
            if int(parent) == pid:
                found.append((int(fields.split()[19]), int(path.parent.name)))
    return [child for _, child in sorted(found)]


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def free_port() -> int:
    """One that nothing listens at."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])

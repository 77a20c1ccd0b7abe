"""Looking at processes: the ranks that a launcher started, whether they run, a port for them."""

import socket
from pathlib import Path


def ranks_of(launcher: int) -> list[int]:
    """The process ids of the ranks that `launcher` started, from the server that forks them."""
    servers = [c for c in _children(launcher) if b"forkserver" in _command(c)]
    return [rank for server in servers for rank in _children(server)]


def _children(pid: int) -> list[int]:
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


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

"""Looking at processes: the ranks that a launcher started, and whether they still run."""

from pathlib import Path


def ranks_of(launcher: int) -> list[int]:
    """The process ids of the ranks that `launcher` spawned."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return [int(c) for c in children if b"spawn_main" in Path(f"/proc/{c}/cmdline").read_bytes()]


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False

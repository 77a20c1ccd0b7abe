"""What this process holds in memory, in MiB, as the kernel counts it."""

from collections.abc import Callable
from pathlib import Path

# environment of ranks whose allocator returns freed memory, so that only what is alive counts
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


def resident(most: bool = False) -> float:
    """Now, or with `most` at any moment since `grown` last began."""
    name = "VmHWM:" if most else "VmRSS:"
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def grown(run: Callable[[], object]) -> float:
    """The most at any moment of `run`, above what was held before."""
    before = resident()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak
    run()
    return resident(most=True) - before

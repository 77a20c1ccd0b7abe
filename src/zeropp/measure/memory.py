"""What memory is really held: by the tensors that a piece of code made, and by the process."""

import os
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Alive(TorchDispatchMode):
    """Counts the bytes of the storages that operators inside made and that nobody has freed."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0  # the most bytes alive at the end of any operator
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator and note what it made."""
        given = {s._cdata for s in _storages((args, kwargs))}
        results = func(*args, **(kwargs or {}))
        # what was given is a view, or changed in place
        self.note([s for s in _storages(results) if s._cdata not in given])
        return results

    def note(self, made: list[Any]) -> None:
        """An operator has ended that made these storages."""
        self._made |= {s._cdata: (StorageWeakRef(s), s.nbytes()) for s in made}
        self.peak = max(self.peak, self.bytes())

    def bytes(self) -> int:
        """Alive now."""
        self._made = {k: made for k, made in self._made.items() if not made[0].expired()}
        return sum(size for _, size in self._made.values())


def _storages(values: Any) -> list[Any]:
    return [t.untyped_storage() for t in tree_leaves(values) if isinstance(t, torch.Tensor)]


def held_bytes(device: torch.device) -> int:
    """What this process holds now: allocated on a GPU, resident on a CPU; on a system that is not
    Linux, which alone tells it, the most that it ever held.
    """
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    if sys.platform != "linux":
        return peak_bytes(device)
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_bytes(device: torch.device) -> int:
    """The most that it ever held."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


class Peak:
    """The most that this process holds, from one look to the next, and ever.

    Args:
        device: of which.

    Attributes:
        ever: the most, at the last look; bytes.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.ever = 0

    def take(self) -> int:
        """Bytes since the last look, where the system lets a peak begin anew; else ever."""
        if self._device.type == "cuda":
            held = torch.cuda.max_memory_allocated(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            held = peak_bytes(self._device)
            with suppress(OSError):  # not of Linux, or forbidden
                Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self.ever = max(self.ever, held)
        return held

"""A small disk of its own, which can really be full, or turn read-only while it is in use."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_FILLER, _BLOCK = ".filler", 4096


class DiskError(RuntimeError):
    """The machine would not make or mount a disk."""


def refusal() -> str | None:
    """Why this machine cannot have such a disk, if it cannot."""
    tools = [tool for tool in ("mkfs.ext4", "e2fsck", "mount") if shutil.which(tool) is None]
    if tools:
        return f"needs {' and '.join(tools)}"
    return None if os.geteuid() == 0 else "needs root, to mount a disk"


@dataclass(frozen=True)
class Disk:
    """A file with an ext4 file system, and where it is mounted."""

    image: Path
    folder: Path

    def fill(self, left: int = 0) -> None:
        """Take all room but `left` bytes."""
        with (self.folder / _FILLER).open("ab", buffering=0) as file:
            for size in (1 << 20, _BLOCK):
                with suppress(OSError):  # it is full
                    while file.write(bytes(size)) == size:
                        continue
            file.truncate(max(0, file.tell() - left))
        os.sync()

    def empty(self) -> None:
        """Give back what was taken."""
        (self.folder / _FILLER).unlink()

    def fail(self) -> None:
        """From now on it is read-only, as after an error of its own; what is open stays open."""
        os.sync()
        _run(f"mount -o remount,abort {self.folder}")

    def mend(self) -> None:
        """Repaired and mounted anew, once nothing uses it."""
        _run(f"umount {self.folder}")
        subprocess.run(["e2fsck", "-p", self.image], capture_output=True, check=False)
        _run(f"mount -o loop {self.image} {self.folder}")


@contextmanager
def mounted(folder: Path, mib: int, in_memory: bool = False) -> Iterator[Disk]:
    """A disk of so many MiB for the body, mounted in `folder`; in memory, names take no room."""
    disk = Disk(folder / "image", folder / "disk")
    disk.folder.mkdir()
    if in_memory:
        _run(f"mount -t tmpfs -o size={mib}m none {disk.folder}")
    else:
        with disk.image.open("wb") as file:
            file.truncate(mib << 20)
        _run(f"mkfs.ext4 -q -m 0 -O ^has_journal {disk.image}")
        _run(f"mount -o loop {disk.image} {disk.folder}")
    try:
        yield disk
    finally:
        _run(f"umount -l {disk.folder}")


def _run(command: str) -> None:
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise DiskError(f"{command}: {done.stderr.strip()}")

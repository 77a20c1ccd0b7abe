"""A folder of checkpoints: each appears there by one rename, and old ones go."""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from zeropp.checkpoint.files import steps_in

_OLD = ".old"


@dataclass(frozen=True)
class Keep:
    """Which checkpoints are kept: the last ones, and, for good, those of every so many steps."""

    last: int = 2
    every: int = 0


def beside(path: Path, token: str) -> Path:
    """Where a checkpoint is written before it is at `path`; `token` is of the one who writes."""
    return path.with_name(f".{path.name}.{token}")


def publish(made: Path, path: Path) -> None:
    """Make what lies at `made` the checkpoint at `path`; there is always the old or the new one.

    What was there before is out of the way for a moment, in which `restore` finds it.
    """
    _sync(made)
    old = path.with_name(f".{path.name}{_OLD}")
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    made.rename(path)
    _sync(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def restore(folder: Path) -> None:
    """Put back what a killed `publish` had out of the way, and remove what was half written; only
    for the owner of the folder.
    """
    for old in folder.glob(f".*{_OLD}"):
        path = folder / old.name.removeprefix(".").removesuffix(_OLD)
        if not path.exists():
            old.rename(path)
    for left in folder.glob(".step-*"):
        shutil.rmtree(left, ignore_errors=True)


def prune(folder: Path, keep: Keep) -> None:
    """Remove all checkpoints but those that are to be kept, each by one rename."""
    steps = steps_in(folder)
    for step in [*steps][: -keep.last]:
        if not keep.every or step % keep.every:
            _move(steps[step], f".step-{step}.removed", shutil.rmtree)


def set_aside_after(folder: Path, step: int) -> list[Path]:
    """Rename what is of later steps, since a run begins again before them; their new names."""
    later = [path for at, path in steps_in(folder).items() if at > step]
    return [_move(path, f"superseded-{path.name}") for path in later]


def _move(path: Path, name: str, then: Callable[[Path], None] | None = None) -> Path:
    new = path.with_name(name)
    shutil.rmtree(new, ignore_errors=True)
    path.rename(new)
    if then is not None:
        then(new)
    return new


def _sync(path: Path) -> None:
    """Let the disk have the names in a folder; some file systems do not take that call."""
    with suppress(OSError):
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)

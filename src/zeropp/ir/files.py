"""Files: read as text, written whole or not at all; what the system refuses is one ValueError.

New content is written beside the file and renamed, so that nothing is lost or left where it fails.
"""

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def explained(what: str, path: Path) -> Iterator[None]:
    """OSErrors of the body as ValueErrors that begin with `what`, an option or a kind of file."""
    try:
        yield
    except OSError as error:
        why = f"{error.strerror}; choose another path" if error.strerror else str(error)
        raise ValueError(f"{what} {path}: {why}") from error


def read_text(what: str, path: Path) -> str:
    """The text of a file; ValueError if it cannot be read, is no plain file or not UTF-8."""
    with explained(f"{what}: cannot read", path):
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe or a device may never end
            raise OSError("it is no plain file; name one")
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise OSError(f"it is no text in UTF-8 (byte {error.start})") from error


@contextmanager
def replacing(what: str, path: Path) -> Iterator[Path]:
    """A file beside `path` to write, which takes its place when the body is done.

    Raises:
        ValueError: it cannot be written there, or the disk is full; then all is as before.
    """
    with _beside(what, path) as beside:
        yield beside
        beside.replace(path.resolve())


def write_text(what: str, path: Path, text: str) -> None:
    """Write a text file whole; ValueError, and all as before, where that cannot be done."""
    with replacing(what, path) as beside:
        beside.write_text(text, encoding="utf-8")


def check_output(what: str, path: Path) -> None:
    """Raise ValueError unless a file can be written at `path`; nothing is left or changed."""
    with _beside(what, path):
        return


def require_new(what: str, path: Path) -> None:
    """Raise ValueError unless a folder at `path` would be new, or is empty."""
    if not path.name:
        raise ValueError(f"{what}: {str(path)!r} is no new folder; name one")
    with explained(what, path):
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise OSError("it is there already; name a new folder")


@contextmanager
def _beside(what: str, path: Path) -> Iterator[Path]:
    """An empty file beside `path`, which is gone in the end."""
    if not path.name:
        raise ValueError(f"{what}: {path} is a folder; name a file")
    beside = path.resolve().with_name(f".zeropp-{os.getpid()}{path.suffix[:9]}")
    try:
        with explained(f"{what}: cannot write", path):
            if not path.parent.is_dir():
                raise OSError(f"folder {str(path.parent)!r} does not exist; make it first")
            if path.is_dir():
                raise OSError("it is a folder; name a file")
            if path.exists() and not path.is_file():  # a device, or a pipe
                raise OSError("it is no plain file; name one")
            beside.touch()
            if path.exists():
                path.open("a").close()  # what may not be written is not replaced either
                shutil.copymode(path, beside)
            yield beside
    finally:
        with suppress(OSError):  # it was never made, or has taken its place
            beside.unlink()


@contextmanager
def new_folder(what: str, path: Path, keep: tuple[type[BaseException], ...] = ()) -> Iterator[None]:
    """Make a folder for the body; where it fails, but not by what is in `keep`, what was made is
    removed again.
    """
    made: list[Path] = []
    try:
        with explained(f"{what}: cannot make", path):
            made += [folder for folder in (path, *path.parents) if not folder.exists()]
            path.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as failure:
        for folder in () if isinstance(failure, keep) else made:
            with suppress(OSError):  # not made, or others have put something into a parent
                shutil.rmtree(folder) if folder == path else folder.rmdir()
        raise

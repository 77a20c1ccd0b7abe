"""Token files, memory-mapped: those of datatrove (`.ds`), as we write them, and nanoGPT's `.bin`.

    x.ds           tokens, uint16 or uint32, little-endian
    x.ds.index     where documents end, in tokens, uint64; without it, all is one document
    x.ds.loss      whether a token is to be learned, one byte each; without it, all are
    x.ds.metadata  tokenizer and bytes of a token (`name|2`), and how many tokens there are
    x.bin          tokens, uint16

A `.ds` is there when it is whole: what stands beside it is written first.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zeropp.ir.files import explained, read_text, replacing, write_text

Tokens = NDArray[Any]
Integers = NDArray[np.int64]
MANIFEST = "tokens.json"
SUFFIXES = (".ds", ".bin")
_FIX = "make it again with `zeropp tokenize`"


@dataclass(frozen=True, eq=False)
class TokenFile:
    """tokens [n], the ends of documents [documents], and which tokens are learned [n] (or all)."""

    path: Path
    tokens: Tokens
    ends: NDArray[np.uint64]
    learned: NDArray[np.bool_] | None


class Encoded(NamedTuple):
    """Tokens [n] of a document or a piece of one, and which are learned [n]; None: all."""

    tokens: Tokens
    learned: NDArray[np.bool_] | None = None


def are_tokens(what: str, path: Path) -> bool:
    """Whether a file, or a folder by the files that lie in it, is of tokens.

    Raises:
        ValueError: a folder that cannot be read; begins with `what`, an option.
    """
    with explained(f"{what}: cannot read", path):
        return any(_inside(path)) if path.is_dir() else path.suffix in SUFFIXES


def read_tokens(what: str, path: Path) -> list[TokenFile]:
    """The token file, or those that lie in a folder, by name.

    Raises:
        ValueError: none is there, or one is cut short.
    """
    if (told := read_manifest(what, path)) and "tokens" not in told:
        raise ValueError(f"{what}: the tokens in {path} are not complete; {_FIX}")
    with explained(f"{what}: cannot read", path):
        files = sorted(_inside(path)) if path.is_dir() else [path]
        return [read_file(what, file) for file in files]


def _inside(folder: Path) -> Iterator[Path]:
    """Token files in a folder; hidden ones are not whole."""
    files = (file for file in folder.iterdir() if not file.name.startswith("."))
    return (file for file in files if file.suffix in SUFFIXES)


def read_manifest(what: str, folder: Path) -> dict[str, Any]:
    """What `zeropp tokenize` has told of a folder; nothing if it was not made so.

    Raises:
        ValueError: it cannot be understood.
    """
    with explained(what, folder):
        if not (folder / MANIFEST).is_file():
            return {}
    try:
        told: dict[str, Any] = json.loads(read_text(what, folder / MANIFEST))
    except json.JSONDecodeError as error:
        raise ValueError(f"{what}: cannot read {folder / MANIFEST} ({error}); {_FIX}") from error
    return told


def read_file(what: str, path: Path) -> TokenFile:
    """One of them, mapped.

    Raises:
        ValueError: it cannot be read, or what lies beside it is of another.
    """

    def beside(suffix: str, dtype: Any) -> NDArray[Any] | None:
        file = path.with_name(path.name + suffix)
        return _mapped(what, file, np.dtype(dtype)) if file.exists() else None

    tokens = _mapped(what, path, _dtype(what, path))
    ends, learned = beside(".index", "<u8"), beside(".loss", np.bool_)
    if ends is None:
        ends = np.array([len(tokens)] if len(tokens) else [], np.uint64)
    counted = [int(ends[-1]) if len(ends) else 0, len(tokens if learned is None else learned)]
    if other := [count for count in counted if count != len(tokens)]:
        raise ValueError(
            f"{what}: {path} has {len(tokens)} tokens, what lies beside it is of {other[0]}; {_FIX}"
        )
    return TokenFile(path, tokens, ends, learned)


def _dtype(what: str, path: Path) -> np.dtype[Any]:
    metadata = path.with_name(path.name + ".metadata")
    if not metadata.exists():
        return np.dtype("<u2")
    size = read_text(what, metadata).partition("\n")[0].rpartition("|")[2]
    if size not in ("2", "4"):
        raise ValueError(f"{what}: {metadata}: a token has 2 or 4 bytes, got {size!r}; {_FIX}")
    return np.dtype(f"<u{size}")


def _mapped(what: str, path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    size = path.stat().st_size
    if size % dtype.itemsize:
        raise ValueError(f"{what}: {path} has {size} bytes, no whole number of {dtype}; {_FIX}")
    if not size:  # which cannot be mapped
        return np.empty(0, dtype)
    return np.memmap(path, dtype, mode="r").view(np.ndarray)


class Writer:
    """Takes the pieces of documents, one after the other, into one open token file."""

    def __init__(self, what: str, path: Path, dtype: np.dtype[Any], files: ExitStack) -> None:
        self._what, self._path, self._dtype, self._files = what, path, dtype, files
        self._tokens, self._index = self._open(""), self._open(".index")
        self._loss: BinaryIO | None = None
        self.count = 0

    def add(self, encoded: Encoded, ends: bool) -> None:
        """More tokens, and whether a document ends with them."""
        tokens, learned = encoded
        if learned is not None and self._loss is None:
            self._loss = self._open(".loss")
            self._loss.write(b"\1" * self.count)
        if self._loss is not None:
            self._loss.write(b"\1" * len(tokens) if learned is None else learned.tobytes())
        self._tokens.write(tokens.astype(self._dtype, copy=False).tobytes())
        self.count += len(tokens)
        if ends:
            self._index.write(self.count.to_bytes(8, "little"))

    def _open(self, suffix: str) -> BinaryIO:
        path = self._path.with_name(self._path.name + suffix)
        beside = self._files.enter_context(replacing(self._what, path))
        return self._files.enter_context(beside.open("wb"))


@contextmanager
def writing(what: str, path: Path, dtype: np.dtype[Any], tokenizer: str) -> Iterator[Writer]:
    """A token file that is there, with all beside it, when the body has ended well.

    Raises:
        ValueError: it cannot be written; begins with `what`, an option.
    """
    with ExitStack() as files:  # closed in reverse, so that the tokens come last
        writer = Writer(what, path, dtype, files)
        yield writer
        metadata = f"{tokenizer}|{dtype.itemsize}\n{writer.count}\n"
        write_text(what, path.with_name(path.name + ".metadata"), metadata)

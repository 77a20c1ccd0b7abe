"""What is read: text files, lines of JSON and tables, cut into parts of about equal size.

A part is one worker's piece of work and becomes one token file. Parts depend on the sources' sizes
alone, so that they are the same whenever, and by however many workers, they are read.
"""

import errno
import os
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, groupby
from operator import itemgetter
from pathlib import Path
from typing import Literal, NamedTuple

from zeropp.ir.files import explained
from zeropp.tokens.tables import TableKind, table_size

Kind = Literal["text", "jsonl"] | TableKind

_STDLIB_BYTES = 8 * 2**20
_PART_BYTES = 4 * 2**20
_MOST_PARTS = 4096  # of a corpus: each is a file that every rank maps
_TEXT = frozenset({".txt", ".py", ".md"})
_KINDS: dict[str, Kind] = {".jsonl": "jsonl", ".parquet": "parquet"}
_TEST_FOLDERS = frozenset({"test", "tests", "idle_test"})
_FIX = "name text, .jsonl or .parquet, a data set's folder, or a folder with .txt, .py or .md files"


class Source(NamedTuple):
    """A file, or a data set's folder: what tells it from others, and how long it is."""

    path: str
    kind: Kind
    length: int  # bytes of text and lines, rows of tables
    size: int  # bytes
    changed: int  # nanoseconds since the epoch


class Range(NamedTuple):
    """From `start` to `stop` of a source: what begins there, and the rest of the last of it."""

    source: Source
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Bytes, if all are equally long."""
        return self.source.size * (self.stop - self.start) // max(1, self.source.length)


Part = tuple[Range, ...]


def part_size(part: Part) -> int:
    """Bytes, about."""
    return sum(each.size for each in part)


def find_sources(what: str, paths: Sequence[Path]) -> list[Source]:
    """Files as named; of folders, the .txt, .py, .md, .jsonl and .parquet files below, sorted.

    Raises:
        ValueError: a path that is not there, or holds nothing of the kind; it begins with `what`.
    """
    found = []
    for path in paths:
        with explained(f"{what}: cannot read", path):
            found += [_source(*pair) for pair in _at(what, path)]
    return found


def standard_library() -> list[Source]:
    """The first 8 MiB of the sources of Python's packages, without tests."""
    root = Path(sysconfig.get_paths()["stdlib"])
    # `site-packages`, for one, is no package
    files = _below(root, lambda name: name.isidentifier() and name not in _TEST_FOLDERS)
    found = [_source(file, "text") for file in files if file.suffix == ".py"]
    before = accumulate((source.size for source in found), initial=0)
    return [source for source, size in zip(found, before, strict=False) if size < _STDLIB_BYTES]


def parts_of(sources: Sequence[Source]) -> list[Part]:
    """Ranges of about 4 MiB each, or of more where that would be thousands; small ones together."""
    wanted = max(_PART_BYTES, sum(source.size for source in sources) // _MOST_PARTS)
    every = [each for source in sources for each in _ranges(source, wanted)]
    before = accumulate((each.size for each in every), initial=0)
    numbered = zip(every, (size // wanted for size in before), strict=False)
    groups = groupby(numbered, key=itemgetter(1))
    return [tuple(each for each, _ in group) for _, group in groups]


def _ranges(source: Source, wanted: int) -> Iterator[Range]:
    number = min(-(-source.size // wanted), source.length)
    for i in range(number):
        yield Range(source, i * source.length // number, (i + 1) * source.length // number)


def _at(what: str, path: Path) -> Iterator[tuple[Path, Kind]]:
    if path.is_file():
        yield path, _KINDS.get(path.suffix, "text")
    elif (path / "dataset_dict.json").is_file():
        raise ValueError(f"{what}: {path} holds several data sets; name one of its folders")
    elif (path / "state.json").is_file():
        yield path, "dataset"
    elif not path.is_dir():
        raise ValueError(f"{what}: there is no file or folder {str(path)!r}; {_FIX}")
    else:
        files = _below(path, _is_visible)
        found = [file for file in files if file.suffix in _TEXT or file.suffix in _KINDS]
        if not found:
            raise ValueError(f"{what}: the folder {str(path)!r} holds no such file; {_FIX}")
        yield from ((file, _KINDS.get(file.suffix, "text")) for file in found)


def _is_visible(name: str) -> bool:
    return not name.startswith(".")


def _below(root: Path, enter: Callable[[str], bool]) -> list[Path]:
    """Visible files below `root`, by relative path, from folders whose name `enter` accepts."""
    found = []
    for folder, below, names in os.walk(root):
        below[:] = filter(enter, below)
        found += [Path(folder, name) for name in filter(_is_visible, names)]
    return sorted(filter(Path.is_file, found), key=Path.as_posix)


def _source(path: Path, kind: Kind) -> Source:
    if not os.access(path, os.R_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    told = (path / "state.json" if kind == "dataset" else path).stat()
    length, size = told.st_size, told.st_size
    if kind in ("parquet", "dataset"):
        length, size = table_size(kind, path)
    return Source(str(path), kind, length, size, told.st_mtime_ns)

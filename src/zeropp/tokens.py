"""Text as bytes: where it comes from, how it is split, and which sequences a step sees.

A batch is a function of (split, step, seed) alone. Nothing is kept between steps, so a run resumes
by its step number, and every data-parallel layout sees the same sequences.
"""

import os
import random
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "validation"]
Tokens = NDArray[np.uint8]
Sequences = NDArray[np.int64]

STDLIB_BYTES = 8 * 2**20
_SUFFIXES = frozenset({".txt", ".py", ".md"})
_TEST_FOLDERS = frozenset({"test", "tests", "idle_test"})
_FIX = "set data.path to a text file, or to a folder with .txt, .py or .md files"


@dataclass(frozen=True, eq=False)
class Corpus:
    """Tokens to train on, and tokens held out: of other files, or another part of a single one."""

    train: Tokens
    validation: Tokens

    def batch(
        self,
        split: Split,
        step: int,
        batch_size: int,
        seq_len: int,
        seed: int,
        *,
        rank: int = 0,
        world: int = 1,
    ) -> tuple[Sequences, Sequences]:
        """Inputs and targets of one step: two int64 [batch_size / world, seq_len].

        Targets are the inputs shifted by one token. `train` sequences start anywhere, drawn by
        `seed` and `step`; `validation` ones are a fixed order of windows that do not overlap,
        walked by `step`, the same for every seed, and start over once all were seen. Of the whole
        batch, `rank` gets one of `world` equal, consecutive slices.

        Raises:
            ValueError: a number out of range, `batch_size` is no multiple of `world`, or the split
                is shorter than one sequence.
        """
        _check_layout(step, batch_size, rank, world)
        if split not in ("train", "validation"):
            raise ValueError(f"split must be train or validation, got {split!r}")
        tokens = self.train if split == "train" else self.validation
        _check_length(len(tokens), split, seq_len)
        if split == "train":
            draw = random.Random(f"batch {seed} {step}")
            starts = [draw.randrange(len(tokens) - seq_len) for _ in range(batch_size)]
        else:
            starts = _fixed_starts(len(tokens), step, batch_size, seq_len)
        share = batch_size // world
        mine = np.array(starts[rank * share : (rank + 1) * share])
        sequences = tokens[mine[:, None] + np.arange(seq_len + 1)].astype(np.int64)
        return np.ascontiguousarray(sequences[:, :-1]), np.ascontiguousarray(sequences[:, 1:])


def load_corpus(
    path: str | None = None,
    *,
    seq_len: int,
    max_bytes: int | None = None,
    validation_fraction: float = 0.05,
) -> Corpus:
    """Read text and split it.

    Args:
        path: a text file, or a folder whose .txt, .py and .md files are read, sorted, with those
            below it (hidden ones left out); None: the sources of Python's standard library,
            without its tests.
        seq_len: tokens per sequence; both splits must hold one sequence and its last target.
        max_bytes: read no more than this; None: 8 MiB of the standard library, all of `path`.
        validation_fraction: held out of the files, spread evenly; of a single file, its tail.

    Raises:
        ValueError: `path` is missing, unreadable or too short, or a number is out of range.
    """
    _check_options(seq_len, max_bytes, validation_fraction)
    if path is None:
        files, source = _stdlib_files(), "the standard library"
        max_bytes = STDLIB_BYTES if max_bytes is None else max_bytes
    else:
        files, source = _files_at(Path(path)), repr(path)
    texts = _read(files, max_bytes)
    if not texts:
        raise ValueError(f"data.path: {source} holds no text; {_FIX}")
    train, validation = _split(texts, validation_fraction, seq_len)
    if min(len(train), len(validation)) <= seq_len:
        raise ValueError(
            f"data.path: {source} leaves {len(train)} bytes to train and {len(validation)} to "
            f"validate, each needs seq_len + 1 = {seq_len + 1}; give more text or lower seq_len"
        )
    return Corpus(np.frombuffer(train, np.uint8), np.frombuffer(validation, np.uint8))


def decode(tokens: NDArray[Any]) -> str:
    """Text of integer tokens, any shape; those that are no byte, and no UTF-8, become U+FFFD."""
    known = (bytes((t,)) if t < 256 else "\ufffd".encode() for t in tokens.flatten().tolist())
    return b"".join(known).decode("utf-8", errors="replace")


def _check_options(seq_len: int, max_bytes: int | None, validation_fraction: float) -> None:
    if seq_len < 1:
        raise ValueError(f"seq_len must be at least 1, got {seq_len}")
    if max_bytes is not None and max_bytes < 1:
        raise ValueError(f"data.max_bytes must be at least 1, got {max_bytes}; or leave it out")
    if not 0 < validation_fraction < 1:
        raise ValueError(
            f"data.validation_fraction must be above 0 and below 1, got {validation_fraction}"
        )


def _stdlib_files() -> list[Path]:
    """Of all packages but tests; `site-packages`, for one, is no package."""
    files = _sorted_below(
        Path(sysconfig.get_paths()["stdlib"]),
        enter=lambda folder: folder.isidentifier() and folder not in _TEST_FOLDERS,
    )
    return [file for file in files if file.suffix == ".py"]


def _files_at(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"data.path: there is no file or folder {str(path)!r}; {_FIX}")
    files = [file for file in _sorted_below(path, enter=_is_visible) if file.suffix in _SUFFIXES]
    if not files:
        raise ValueError(f"data.path: the folder {str(path)!r} holds no such file; {_FIX}")
    return files


def _is_visible(name: str) -> bool:
    return not name.startswith(".")


def _sorted_below(root: Path, enter: Callable[[str], bool]) -> list[Path]:
    """Visible files below `root`, by relative path, from folders whose name `enter` accepts."""
    found = []
    for folder, below, names in os.walk(root):
        below[:] = filter(enter, below)
        found += [Path(folder, name) for name in filter(_is_visible, names)]
    return sorted(filter(Path.is_file, found), key=lambda file: file.relative_to(root).as_posix())


def _read(files: list[Path], max_bytes: int | None) -> list[bytes]:
    """Contents in order, empty files left out, the last one cut at the limit."""
    texts, total = [], 0
    for file in files:
        if max_bytes is not None and total >= max_bytes:
            break
        try:
            text = file.read_bytes()
        except OSError as error:
            raise ValueError(
                f"data.path: cannot read {str(file)!r} ({error.strerror}); "
                "make it readable or move it away"
            ) from error
        text = text if max_bytes is None else text[: max_bytes - total]
        total += len(text)
        texts += [text] if text else []
    return texts


def _split(texts: list[bytes], fraction: float, seq_len: int) -> tuple[bytes, bytes]:
    if len(texts) == 1:
        tail = max(round(len(texts[0]) * fraction), seq_len + 1)
        cut = max(len(texts[0]) - tail, 0)
        return texts[0][:cut], texts[0][cut:]
    count = min(max(round(len(texts) * fraction), 1), len(texts) - 1)
    held_out = {(2 * i + 1) * len(texts) // (2 * count) for i in range(count)}
    train = b"".join(text for i, text in enumerate(texts) if i not in held_out)
    return train, b"".join(texts[i] for i in sorted(held_out))


def _check_layout(step: int, batch_size: int, rank: int, world: int) -> None:
    if step < 0:
        raise ValueError(f"step must be 0 or more, got {step}")
    if batch_size < 1 or world < 1 or batch_size % world:
        raise ValueError(
            f"batch_size must be a multiple of the data-parallel ranks ({world}), got {batch_size}"
        )
    if not 0 <= rank < world:
        raise ValueError(f"rank must be from 0 to {world - 1}, got {rank}")


def _check_length(length: int, split: Split, seq_len: int) -> None:
    if seq_len < 1:
        raise ValueError(f"seq_len must be at least 1, got {seq_len}")
    if length <= seq_len:
        raise ValueError(
            f"data.path: the {split} text has {length} tokens, one sequence needs "
            f"seq_len + 1 = {seq_len + 1}; give more text or lower seq_len"
        )


def _fixed_starts(length: int, step: int, count: int, seq_len: int) -> list[int]:
    """Windows in an order that spreads any few of them over the text: a fixed shuffle."""
    windows = list(range((length - 1) // seq_len))
    random.Random("validation").shuffle(windows)
    first = step * count
    return [windows[i % len(windows)] * seq_len for i in range(first, first + count)]

"""Runs of documents, of whatever files, read one after another as if they were one text."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, compress, pairwise
from operator import not_
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from zeropp.tokens.files import TokenFile

_RUNS = 64  # in which documents are held out, so that no table of them is needed


class Run(NamedTuple):
    """Tokens `start` to `stop` of a file; the first of them begins a document."""

    file: TokenFile
    start: int
    stop: int


class Piece(NamedTuple):
    """Consecutive tokens [n], which of them begin a document [n], and which are learned [n]."""

    tokens: NDArray[np.int64]
    begins: NDArray[np.bool_]
    learned: NDArray[np.bool_]


class Stream:
    """All tokens of some runs in a row."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = [run for run in runs if run.start < run.stop]
        self._firsts = np.cumsum([0, *(run.stop - run.start for run in self._runs)])
        inside = (_ends(file, start + 1, stop).size for file, start, stop in self._runs)
        self.packed = len(self._runs) > 1 or any(inside)  # whether there are two documents

    def __len__(self) -> int:
        """Tokens."""
        return int(self._firsts[-1])

    def read(self, start: int, stop: int) -> Piece:
        """Tokens `start` to `stop`."""
        tokens = np.empty(stop - start, np.int64)
        begins, learned = np.zeros(stop - start, np.bool_), np.ones(stop - start, np.bool_)
        at = 0
        for first, (file, low, high) in self._within(start, stop):
            here = slice(at, at + high - low)
            tokens[here] = file.tokens[low:high]
            begins[at] |= first
            begins[_ends(file, low, high).astype(np.int64) - low + at] = True
            if file.learned is not None:
                learned[here] = file.learned[low:high]
            at = here.stop
        return Piece(tokens, begins, learned)

    def _within(self, start: int, stop: int) -> Iterator[tuple[bool, Run]]:
        """What lies between, run by run, and whether it is the run's beginning."""
        number = int(np.searchsorted(self._firsts, start, side="right")) - 1
        while start < stop:
            file, low, high = self._runs[number]
            begin = low + start - int(self._firsts[number])
            end = min(high, begin + stop - start)
            yield begin == low, Run(file, begin, end)
            start, number = start + end - begin, number + 1


def _ends(file: TokenFile, start: int, stop: int) -> NDArray[np.uint64]:
    """Where documents end from `start` on and before `stop`; mapped as the index is."""
    # needles of the same type: numpy would turn a whole index of another one into floats
    low, high = np.searchsorted(file.ends, np.array([start, stop], np.uint64))
    return file.ends[low:high]


def held_out(
    files: Sequence[TokenFile], fraction: float, least: int
) -> tuple[list[Run], list[Run]]:
    """Runs to train on and runs to validate on, of different documents.

    Files whose names begin with `val` are for validation, where others are there. Else it is a
    `fraction` of the documents, in at most 64 runs that are spread evenly; where that is none, a
    `fraction` of the tokens, at least `least`, at the end.
    """
    named = [file.path.name.startswith("val") for file in files]
    if any(named) and not all(named):
        return _whole(compress(files, map(not_, named))), _whole(compress(files, named))
    count = sum(len(file.ends) for file in files)
    held = min(round(count * fraction), count - 1)
    if held < 1:
        return _tail(files, fraction, least)
    edges = [0, *_edges(count, held), count]
    between = [_documents(files, *pair) for pair in pairwise(edges)]
    return list(chain(*between[::2])), list(chain(*between[1::2]))


def _tail(files: Sequence[TokenFile], fraction: float, least: int) -> tuple[list[Run], list[Run]]:
    total = sum(len(file.tokens) for file in files)
    cut = max(0, total - max(round(total * fraction), least))
    train, validation = [], []
    for file, _, stop in _whole(files):
        at = min(max(cut, 0), stop)
        train.append(Run(file, 0, at))
        validation.append(Run(file, at, stop))
        cut -= stop
    return train, validation


def _whole(files: Iterable[TokenFile]) -> list[Run]:
    return [Run(file, 0, len(file.tokens)) for file in files]


def _edges(count: int, held: int) -> Iterator[int]:
    """Of `count` documents, where each run of held ones begins and ends."""
    number = min(held, _RUNS)
    for i in range(number):
        low, high = i * count // number, (i + 1) * count // number
        share = min((i + 1) * held // number - i * held // number, high - low)
        start = (low + high) // 2 - share // 2
        yield from (start, start + share)


def _documents(files: Iterable[TokenFile], first: int, last: int) -> Iterator[Run]:
    """Documents `first` to `last`, counted over all files."""
    for file in files:
        low, high = max(first, 0), min(last, len(file.ends))
        if low < high:
            yield Run(file, int(file.ends[low - 1]) if low else 0, int(file.ends[high - 1]))
        first, last = first - len(file.ends), last - len(file.ends)

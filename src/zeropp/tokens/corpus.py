"""A batch is a function of split, step and seed alone: which windows, and what is learned of them.

Nothing is kept between steps, so a run resumes by its step number, on any number of data-parallel
ranks, and each of these sees its slice of the same windows.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zeropp.tokens.files import Integers, read_manifest, read_tokens
from zeropp.tokens.order import in_epochs, in_rounds
from zeropp.tokens.stream import Stream, held_out

Split = Literal["train", "validation"]

IGNORED = -100  # a label that does not count


class Batch(NamedTuple):
    """Windows of one step, int64 [windows, length] each.

    `labels` are the tokens themselves, as transformers takes them: whoever computes the loss shifts
    them. They are -100 where nothing is to be said: on a document's first token, and on what a
    prompt says. `positions` restart at every document; None where no split has two.
    """

    tokens: Integers
    labels: Integers
    positions: Integers | None


@dataclass(frozen=True, eq=False)
class Corpus:
    """Tokens to train on and tokens held out, in windows of `length`, one every `stride`."""

    train: Stream
    validation: Stream
    length: int
    stride: int
    vocab_size: int | None = None  # of the model: larger tokens are refused

    @property
    def packed(self) -> bool:
        """Whether windows hold several documents, so that batches have positions."""
        return self.train.packed or self.validation.packed

    def windows(self, split: Split) -> int:
        """How many there are; an epoch has each of them once."""
        if split not in ("train", "validation"):
            raise ValueError(f"split must be train or validation, got {split!r}")
        tokens = self.train if split == "train" else self.validation
        return max(0, (len(tokens) - self.length) // self.stride + 1)

    def batch(
        self,
        split: Split,
        step: int,
        batch_size: int,
        seed: int = 0,
        *,
        rank: int = 0,
        world: int = 1,
    ) -> Batch:
        """`batch_size / world` windows of one step.

        `train` has every window once in an epoch, in an order of `seed` that is another one in each
        epoch; `validation` has a fixed order, over and over. Of the whole batch, `rank` gets one of
        `world` equal, consecutive slices.

        Raises:
            ValueError: a number out of range, `batch_size` is no multiple of `world`, the split has
                no window, or a token is outside of the vocabulary.
        """
        _check_layout(step, batch_size, rank, world)
        count, share = self.windows(split), batch_size // world
        if not count:
            raise ValueError(f"the {split} tokens are fewer than a window's {self.length}")
        first = step * batch_size + rank * share
        if split == "train":
            found = in_epochs(count, first, share, f"batch {seed}")
        else:
            found = in_rounds(count, first, share)
        return self._of(self.train if split == "train" else self.validation, found)

    def _of(self, stream: Stream, windows: list[int]) -> Batch:
        starts = [window * self.stride for window in windows]
        pieces = [stream.read(start, start + self.length) for start in starts]
        tokens, begins, learned = map(np.stack, zip(*pieces, strict=True))
        if self.vocab_size is not None:
            check_vocabulary(int(tokens.max()), self.vocab_size)
        labels = np.where(begins | ~learned, IGNORED, tokens)
        return Batch(tokens, labels, _positions(begins) if self.packed else None)


def load_corpus(
    path: Path,
    *,
    length: int,
    stride: int,
    vocab_size: int | None = None,
    validation_fraction: float = 0.05,
) -> Corpus:
    """The corpus in token files, which are mapped and not read.

    Args:
        path: a token file, or a folder of such; `cached` makes them of text.
        length: tokens in a window. A model whose loss shifts the labels takes windows of its
            sequence length; one that is given inputs and targets takes one token more.
        stride: tokens from one window's beginning to the next's: the sequence length.
        vocab_size: of the model, which refuses larger tokens.
        validation_fraction: of the documents, held out in runs that are spread evenly; where that
            is none, of the tokens, at the end. Where the names of some files begin with `val`,
            those instead.

    Raises:
        ValueError: no tokens, too few of them, or a number out of range.
    """
    if not 1 <= stride <= length:
        raise ValueError(f"stride must be from 1 to the length {length}, got {stride}")
    if not 0 < validation_fraction < 1:
        raise ValueError(
            f"validation_fraction must be above 0 and below 1, got {validation_fraction}"
        )
    if vocab_size is not None:
        check_vocabulary(read_manifest("data.path", path).get("largest", 0), vocab_size)
    train, held = held_out(read_tokens("data.path", path), validation_fraction, length)
    corpus = Corpus(Stream(train), Stream(held), length, stride, vocab_size)
    if not corpus.windows("train") or not corpus.windows("validation"):
        raise ValueError(
            f"data.path: {path} leaves {len(corpus.train)} tokens to train and "
            f"{len(corpus.validation)} to validate, each needs a window of {length}; give more "
            "text or lower data.seq_len"
        )
    return corpus


def check_vocabulary(largest: int, vocab_size: int) -> None:
    """Raise ValueError for a token that the model does not have."""
    if largest >= vocab_size:
        raise ValueError(
            f"data.path: its token {largest} is outside of the model's vocabulary of {vocab_size}; "
            "make the tokens with the model's own tokenizer"
        )


def _positions(begins: NDArray[np.bool_]) -> Integers:
    """Of flags [windows, length]: how far every token is from its document's or window's begin."""
    places = np.arange(begins.shape[1])
    return places - np.maximum.accumulate(np.where(begins, places, 0), axis=1)


def _check_layout(step: int, batch_size: int, rank: int, world: int) -> None:
    if step < 0:
        raise ValueError(f"step must be 0 or more, got {step}")
    if batch_size < 1 or world < 1 or batch_size % world:
        raise ValueError(
            f"batch_size must be a multiple of the data-parallel ranks ({world}), got {batch_size}"
        )
    if not 0 <= rank < world:
        raise ValueError(f"rank must be from 0 to {world - 1}, got {rank}")

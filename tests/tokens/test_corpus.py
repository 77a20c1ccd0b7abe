"""Batches: windows over documents, what is learned of them, and which of them a step sees."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeropp.tokens import BYTES, Corpus, cached, decode, load_corpus
from zeropp.tokens.files import Encoded, TokenFile, writing
from zeropp.tokens.stream import Run, Stream, held_out


def token_file(*lengths: int, name: str = "x.ds", learned: list[bool] | None = None) -> TokenFile:
    """Documents of such lengths, whose tokens count up: each tells where it stands."""
    ends = np.cumsum(lengths).astype(np.uint64)
    mask = None if learned is None else np.array(learned)
    return TokenFile(Path(name), np.arange(sum(lengths), dtype=np.uint16), ends, mask)


def stream(*files: TokenFile) -> Stream:
    return Stream([Run(file, 0, len(file.tokens)) for file in files])


def ramp(train: int = 250, validation: int = 101, seq_len: int = 10) -> Corpus:
    parts = stream(token_file(train)), stream(token_file(validation))
    return Corpus(*parts, length=seq_len + 1, stride=seq_len)


# --- which windows


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["train", "validation"]),
    st.integers(0, 10**6),
    st.integers(0, 10**12),
    st.sampled_from([1, 2, 3, 4, 6, 12]),
)
def test_ranks_partition_the_batch_in_order(split: str, step: int, seed: int, world: int) -> None:
    corpus = packed()
    whole = corpus.batch(split, step, 12, seed)
    shares = [corpus.batch(split, step, 12, seed, rank=r, world=world) for r in range(world)]
    for name in ("tokens", "labels", "positions"):
        parts = [getattr(share, name) for share in shares]
        assert np.array_equal(np.concatenate(parts), getattr(whole, name))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 9), st.data())
def test_an_epoch_has_every_window_once_though_ranks_change_in_its_middle(
    count: int, seed: int, data: st.DataObject
) -> None:
    corpus = ramp(train=10 * count + 1)
    step, epochs, found = 0, 2, []
    while len(found) < epochs * count:
        for _ in range(data.draw(st.integers(1, 3))):  # steps until the next resumption
            world = data.draw(st.sampled_from([1, 2, 4]))
            for rank in range(world):
                found += list(corpus.batch("train", step, 4, seed, rank=rank, world=world).tokens)
            step += 1
    starts = [int(window[0]) for window in found]
    for epoch in range(epochs):
        once = sorted(starts[epoch * count : (epoch + 1) * count])
        assert once == list(range(0, 10 * count, 10))


def test_step_and_seed_each_change_the_training_batch() -> None:
    first = ramp().batch("train", 0, 8, 0).tokens
    assert np.array_equal(first, ramp().batch("train", 0, 8, 0).tokens)
    assert not np.array_equal(first, ramp().batch("train", 1, 8, 0).tokens)
    assert not np.array_equal(first, ramp().batch("train", 0, 8, 1).tokens)
    assert not np.array_equal(first, ramp().batch("train", 0, 8, 2**32).tokens)


def test_validation_is_the_same_for_every_seed_and_sees_each_window_once_per_round() -> None:
    batches = [ramp().batch("validation", step, 5, step).tokens for step in range(4)]
    starts = np.concatenate(batches)[:, 0].tolist()
    assert sorted(starts[:10]) == list(range(0, 100, 10))
    assert starts[10:] == starts[:10]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "test"}, "split must be train or validation, got 'test'"),
        ({"step": -1}, "step must be 0 or more, got -1"),
        ({"batch_size": 0}, r"multiple of the data-parallel ranks \(1\), got 0"),
        ({"batch_size": 5, "world": 2}, r"multiple of the data-parallel ranks \(2\), got 5"),
        ({"world": 0}, "batch_size must be a multiple"),
        ({"rank": 2, "world": 2}, "rank must be from 0 to 1, got 2"),
        ({"rank": -1}, "rank must be from 0 to 0, got -1"),
    ],
)
def test_a_bad_batch_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ramp().batch(**{"split": "train", "step": 0, "batch_size": 4, **change})


def test_a_split_without_a_window_is_refused() -> None:
    with pytest.raises(ValueError, match="the validation tokens are fewer than a window's 11"):
        ramp(validation=10).batch("validation", 0, 1)


# --- what a window holds


def packed(stride: int = 8) -> Corpus:
    files = token_file(5, 3, 40), token_file(30, name="y.ds"), token_file(20, 1, 1, 18)
    return Corpus(stream(*files[:2]), stream(*files[1:]), length=9, stride=stride)


def test_targets_are_the_next_tokens() -> None:
    batch = ramp().batch("train", 3, 4)
    assert batch.tokens.shape == batch.labels.shape == (4, 11)
    assert batch.tokens.dtype == batch.labels.dtype == np.int64
    assert np.array_equal(batch.labels[:, 1:], batch.tokens[:, :-1] + 1)
    assert batch.positions is None


def test_a_packed_window() -> None:
    windows = packed().batch("train", 0, 8)
    (row,) = np.flatnonzero(windows.tokens[:, 0] == 0)[:1]
    assert windows.tokens[row].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert windows.labels[row].tolist() == [-100, 1, 2, 3, 4, -100, 6, 7, -100]
    assert windows.positions is not None
    assert windows.positions[row].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 0]
    (row,) = np.flatnonzero((windows.tokens[:, 0] == 40) & (windows.tokens[:, -1] == 0))[:1]
    assert windows.tokens[row].tolist() == [40, 41, 42, 43, 44, 45, 46, 47, 0]  # the next file
    assert windows.labels[row].tolist() == [40, 41, 42, 43, 44, 45, 46, 47, -100]


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=1, max_size=4), st.data())
def test_a_stream_is_its_files_in_a_row(lengths: list[list[int]], data: st.DataObject) -> None:
    files = [token_file(*each) for each in lengths]
    text = [token for file in files for token in file.tokens]
    begins = [place == 0 for each in lengths for length in each for place in range(length)]
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, len(text)))
    piece = stream(*files).read(start, stop)
    assert piece.tokens.tolist() == text[start:stop]
    assert piece.begins.tolist() == begins[start:stop]


def test_what_a_prompt_says_is_no_label() -> None:
    said = token_file(4, 5, learned=[False, False, True, True, False, False, False, True, True])
    corpus = Corpus(stream(said), stream(said), length=9, stride=9)
    (labels,) = corpus.batch("train", 0, 1).labels.tolist()
    assert labels == [-100, -100, 2, 3, -100, -100, -100, 7, 8]


# --- what is held out


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 4), max_size=200), min_size=1, max_size=5),
    st.floats(0.001, 0.999),
)
def test_documents_are_in_one_split_each(lengths: list[list[int]], fraction: float) -> None:
    files, first = [], 0
    for each in lengths:
        made = token_file(*each)
        files.append(made.__class__(made.path, made.tokens + np.uint16(first), made.ends, None))
        first += sum(each)
    splits = held_out(files, fraction, 1)
    tokens = [Stream(runs).read(0, len(Stream(runs))).tokens.tolist() for runs in splits]
    assert sorted(tokens[0] + tokens[1]) == list(range(first))
    documents = sum(map(len, lengths))
    if documents > 1 and round(documents * fraction):
        ends = np.cumsum([length for each in lengths for length in each])
        numbers = [set(np.searchsorted(ends, some, side="right").tolist()) for some in tokens]
        assert not numbers[0] & numbers[1]
        assert numbers[0]
        assert 1 <= len(numbers[1]) <= round(documents * fraction)
    else:
        assert tokens[0] + tokens[1] == list(range(first))
        assert len(tokens[1]) == min(first, max(1, round(first * fraction)))


def test_of_few_documents_the_last_tokens_are_held_out() -> None:
    files = [token_file(500, 200), token_file(290, 10, name="y.ds")]
    splits = [Stream(runs) for runs in held_out(files, 0.05, 1)]
    assert [len(split) for split in splits] == [950, 50]
    assert splits[1].read(0, 50).tokens.tolist() == list(range(250, 300))


def test_files_named_so_are_for_validation() -> None:
    files = [token_file(9, 9, name=name) for name in ("train.bin", "val.bin")]
    splits = held_out(files, 0.5, 1)
    assert [[run.file.path.name for run in runs] for runs in splits] == [["train.bin"], ["val.bin"]]
    assert [run.file.path.name for run in held_out(files[1:], 0.5, 1)[0]] == ["val.bin"]


# --- of text


def corpus_of(text: Path, tmp: Path, seq_len: int = 8, **options: float) -> Corpus:
    path = cached(str(text), BYTES, tmp / "tokens")
    return load_corpus(path, length=seq_len + 1, stride=seq_len, **options)


def all_of(tokens: Stream) -> str:
    return decode(tokens.read(0, len(tokens)).tokens)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "text").mkdir()
    for i in range(10):
        (tmp_path / "text" / f"{i}.txt").write_bytes(bytes([48 + i]) * 100)
    return tmp_path / "text"


def test_held_out_files_are_spread_evenly(folder: Path, tmp_path: Path) -> None:
    corpus = corpus_of(folder, tmp_path, validation_fraction=0.2)
    assert sorted(set(all_of(corpus.validation))) == ["2", "7"]
    assert sorted(set(all_of(corpus.train))) == list("01345689")
    assert corpus.packed


def test_a_single_file_is_validated_on_its_tail(tmp_path: Path) -> None:
    file = tmp_path / "any.name"
    file.write_bytes(bytes(range(200)))
    corpus = corpus_of(file, tmp_path, validation_fraction=0.25)
    assert corpus.train.read(0, 150).tokens.tolist() == list(range(150))
    assert corpus.validation.read(0, 50).tokens.tolist() == list(range(150, 200))
    assert not corpus.packed
    corpus = corpus_of(file, tmp_path, validation_fraction=0.001)
    assert corpus.validation.read(0, 9).tokens.tolist() == list(range(191, 200))


def test_a_split_shorter_than_a_window_is_refused(folder: Path, tmp_path: Path) -> None:
    message = "leaves 399 tokens to train and 601 to validate, each needs a window of 601; give"
    with pytest.raises(ValueError, match=message):
        corpus_of(folder, tmp_path, seq_len=600)


def test_a_larger_vocabulary_than_the_models_is_refused(tmp_path: Path) -> None:
    with writing("output", tmp_path / "x.ds", np.dtype("<u4"), "t") as writer:
        writer.add(Encoded(np.array([70000] * 50)), ends=True)
    loaded = load_corpus(tmp_path, length=8, stride=8, vocab_size=70000)  # others tell no largest
    message = "data.path: its token 70000 is outside of the model's vocabulary of 70000; make"
    with pytest.raises(ValueError, match=message):
        loaded.batch("train", 0, 1)
    assert load_corpus(tmp_path, length=8, stride=8, vocab_size=70001).batch("train", 0, 1)
    (tmp_path / "text.md").write_text("~" * 50)
    with pytest.raises(ValueError, match=r"its token 126 is outside .* of 126"):
        corpus_of(tmp_path / "text.md", tmp_path, vocab_size=126)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({"validation_fraction": f}, "validation_fraction must be") for f in (0.0, 1.0, np.nan)),
        ({"stride": 0}, "stride must be from 1 to the length 9, got 0"),
        ({"stride": 10}, "stride must be from 1 to the length 9, got 10"),
    ],
)
def test_bad_options_are_refused(tmp_path: Path, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_corpus(tmp_path, **{"length": 9, "stride": 8, **options})


def test_no_token_is_a_target_twice_or_left_out() -> None:
    corpus = ramp(train=101)
    targets = corpus.batch("train", 0, corpus.windows("train")).labels[:, 1:]
    assert Counter(targets.flatten().tolist()) == Counter(range(1, 101))

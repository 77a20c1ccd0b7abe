"""Text as bytes: sources, split, and batches that depend on step and seed alone."""

import sysconfig
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeropp.tokens import STDLIB_BYTES, Corpus, decode, load_corpus


def ramp(train: int = 250, validation: int = 101) -> Corpus:
    """Every token tells its own position, so a sequence tells where it was taken."""
    return Corpus(np.arange(train, dtype=np.uint8), np.arange(validation, dtype=np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(10):
        (tmp_path / f"{i}.txt").write_bytes(bytes([i]) * 100)
    return tmp_path


# --- batches


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_batch_has_the_stated_shape_and_targets_are_the_next_tokens(split: str) -> None:
    inputs, targets = ramp().batch(split, 3, batch_size=4, seq_len=10, seed=0)
    assert inputs.shape == targets.shape == (4, 10)
    assert inputs.dtype == targets.dtype == np.int64
    assert inputs.flags.c_contiguous
    assert targets.flags.c_contiguous
    assert np.array_equal(targets, inputs + 1)
    assert np.array_equal(inputs[:, 1:], targets[:, :-1])


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(["train", "validation"]),
    st.integers(0, 10**6),
    st.integers(0, 10**12),
    st.sampled_from([1, 2, 3, 4, 6, 12]),
)
def test_ranks_partition_the_batch_in_order(split: str, step: int, seed: int, world: int) -> None:
    whole = ramp().batch(split, step, 12, 8, seed)
    shares = [ramp().batch(split, step, 12, 8, seed, rank=r, world=world) for r in range(world)]
    assert np.array_equal(np.concatenate([inputs for inputs, _ in shares]), whole[0])
    assert np.array_equal(np.concatenate([targets for _, targets in shares]), whole[1])


def test_the_same_step_and_seed_give_the_same_batch_in_any_order_of_asking() -> None:
    forwards = [ramp().batch("train", step, 4, 8, seed=1)[0] for step in range(5)]
    backwards = [ramp().batch("train", step, 4, 8, seed=1)[0] for step in reversed(range(5))]
    assert all(map(np.array_equal, forwards, reversed(backwards)))


def test_step_and_seed_each_change_the_training_batch() -> None:
    first = ramp().batch("train", 0, 8, 8, seed=0)[0]
    assert not np.array_equal(first, ramp().batch("train", 1, 8, 8, seed=0)[0])
    assert not np.array_equal(first, ramp().batch("train", 0, 8, 8, seed=1)[0])
    assert not np.array_equal(first, ramp().batch("train", 0, 8, 8, seed=2**32)[0])


def test_training_sequences_reach_both_ends_of_the_text() -> None:
    starts = ramp(train=20).batch("train", 0, 500, 8, seed=0)[0][:, 0]
    assert set(starts.tolist()) == set(range(12))


def test_validation_is_the_same_for_every_seed_and_sees_each_window_once_per_round() -> None:
    batches = [ramp().batch("validation", step, 5, 10, seed=step)[0] for step in range(4)]
    starts = np.concatenate(batches)[:, 0].tolist()
    assert sorted(starts[:10]) == list(range(0, 100, 10))
    assert starts[10:] == starts[:10]
    assert np.array_equal(batches[1], ramp().batch("validation", 1, 5, 10, seed=7)[0])


def test_a_text_of_exactly_one_sequence_and_its_target_is_enough() -> None:
    for split in ("train", "validation"):
        inputs, targets = ramp(9, 9).batch(split, 0, 2, 8, seed=0)
        assert inputs.tolist() == [list(range(8))] * 2
        assert targets.tolist() == [list(range(1, 9))] * 2


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
        ({"seq_len": 0}, "seq_len must be at least 1, got 0"),
        ({"seq_len": 250}, r"data.path: the train text has 250 tokens.*seq_len \+ 1 = 251"),
    ],
)
def test_a_bad_batch_is_refused(change: dict[str, object], message: str) -> None:
    asked = {"split": "train", "step": 0, "batch_size": 4, "seq_len": 8, "seed": 0, **change}
    with pytest.raises(ValueError, match=message):
        ramp().batch(**asked)


# --- sources and split


def test_by_default_the_standard_library_is_read_up_to_the_limit() -> None:
    corpus = load_corpus(seq_len=128)
    total = len(corpus.train) + len(corpus.validation)
    assert 2**20 < total <= STDLIB_BYTES
    assert 0.02 < len(corpus.validation) / total < 0.1
    text = decode(corpus.train)
    assert "def " in text
    again = load_corpus(seq_len=128)
    assert np.array_equal(again.train, corpus.train)
    assert np.array_equal(again.validation, corpus.validation)


def test_the_standard_library_comes_without_tests_and_site_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = ("abc.py", "json/decoder.py", "zipfile.py")
    left_out = (
        "test/a.py",
        "idlelib/idle_test/b.py",
        "lib2to3/tests/data/c.py",
        "site-packages/torch/d.py",
        "config-3.11/e.py",
        "LICENSE.txt",
    )
    for name in (*kept, *left_out):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"<{name}>" * 10)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    corpus = load_corpus(seq_len=8)
    assert decode(corpus.train) == "<abc.py>" * 10 + "<zipfile.py>" * 10
    assert decode(corpus.validation) == "<json/decoder.py>" * 10


def test_a_limit_cuts_the_text(folder: Path) -> None:
    corpus = load_corpus(str(folder), seq_len=8, max_bytes=250, validation_fraction=0.3)
    assert corpus.train.tolist() == [0] * 100 + [2] * 50
    assert corpus.validation.tolist() == [1] * 100


def test_held_out_files_are_spread_evenly_and_not_trained_on(folder: Path) -> None:
    corpus = load_corpus(str(folder), seq_len=8, validation_fraction=0.2)
    assert sorted(set(corpus.validation.tolist())) == [2, 7]
    assert sorted(set(corpus.train.tolist())) == [0, 1, 3, 4, 5, 6, 8, 9]
    assert len(corpus.train) + len(corpus.validation) == 1000


@pytest.mark.parametrize(("fraction", "held_out"), [(0.0001, 1), (0.5, 5), (0.999, 9)])
def test_each_split_gets_at_least_one_file(folder: Path, fraction: float, held_out: int) -> None:
    corpus = load_corpus(str(folder), seq_len=8, validation_fraction=fraction)
    assert len(corpus.validation) == 100 * held_out


def test_a_single_file_is_validated_on_its_tail(tmp_path: Path) -> None:
    file = tmp_path / "any.name"
    file.write_bytes(bytes(range(200)))
    corpus = load_corpus(str(file), seq_len=8, validation_fraction=0.25)
    assert corpus.train.tolist() == list(range(150))
    assert corpus.validation.tolist() == list(range(150, 200))
    one_sequence = load_corpus(str(file), seq_len=8, validation_fraction=0.001)
    assert one_sequence.validation.tolist() == list(range(191, 200))


def test_a_folder_is_read_sorted_and_recursively_without_hidden_or_other_files(
    tmp_path: Path,
) -> None:
    for name in ("z.txt", "b/a.md", "b.py", ".git/a.txt", ".hidden.txt", "b/image.png", "a.txt"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"{name} says something. ")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "broken.txt").symlink_to(tmp_path / "nowhere")
    corpus = load_corpus(str(tmp_path), seq_len=8)
    assert decode(corpus.train) == "".join(
        f"{n} says something. " for n in ("a.txt", "b.py", "z.txt")
    )
    assert decode(corpus.validation) == "b/a.md says something. "


def refusal(**asked: object) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the callers check the text
        load_corpus(**{"seq_len": 8, **asked})
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_path_without_text_is_refused(tmp_path: Path) -> None:
    missing = refusal(path=str(tmp_path / "nowhere"))
    assert missing.startswith("data.path: there is no file or folder")
    assert "set data.path to a text file" in missing
    assert refusal(path=str(tmp_path)).startswith("data.path: the folder")
    (tmp_path / "empty.txt").touch()
    assert "holds no text; set data.path" in refusal(path=str(tmp_path))
    assert "holds no text; set data.path" in refusal(path=str(tmp_path / "empty.txt"))


def test_an_unreadable_file_is_refused_by_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", deny)
    message = refusal(path=str(folder))
    assert message.startswith("data.path: cannot read")
    assert "0.txt' (Permission denied); make it readable" in message


def test_a_standard_library_without_sources_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    assert refusal().startswith("data.path: the standard library holds no text; set data.path")


def test_a_split_shorter_than_one_sequence_is_refused(folder: Path) -> None:
    message = refusal(path=str(folder), seq_len=100)
    assert message.startswith("data.path: ")
    assert "900 bytes to train and 100 to validate, each needs seq_len + 1 = 101" in message
    assert "give more text or lower seq_len" in message
    assert "0 bytes to train and 100" in refusal(path=str(folder / "0.txt"), seq_len=100)


def test_other_bad_options_are_refused(folder: Path) -> None:
    assert refusal(seq_len=0) == "seq_len must be at least 1, got 0"
    assert "data.max_bytes must be at least 1, got 0" in refusal(max_bytes=0)
    for fraction in (0.0, 1.0, float("nan")):
        assert "data.validation_fraction must be above 0" in refusal(validation_fraction=fraction)


def test_decode_gives_text_and_replaces_broken_bytes() -> None:
    assert decode(np.array(list("grüße".encode()))) == "grüße"
    assert decode(np.array([[104, 105], [255, 33]], dtype=np.uint8)) == "hi\ufffd!"
    assert decode(np.array([], dtype=np.int64)) == ""


def test_tokens_of_a_larger_vocabulary_are_no_text() -> None:
    assert decode(np.array([[104, 50_303], [256, 105]])) == "h\ufffd\ufffdi"

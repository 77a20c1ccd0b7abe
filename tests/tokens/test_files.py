"""Token files as others write and read them."""

import struct
from pathlib import Path

import numpy as np
import pytest

from zeropp.ir.files import new_folder
from zeropp.tokens import load_corpus
from zeropp.tokens.files import Encoded, are_tokens, read_file, read_tokens, writing


def write_datatrove(path: Path, documents: list[list[int]], size: int = 2) -> None:
    """As `TokenizedFile` of datatrove does."""
    letter = {2: "H", 4: "I"}[size]
    tokens = [token for document in documents for token in document]
    ends = np.cumsum([len(document) for document in documents]).tolist()
    path.write_bytes(struct.pack(f"<{len(tokens)}{letter}", *tokens))
    path.with_name(path.name + ".index").write_bytes(struct.pack(f"<{len(ends)}Q", *ends))
    learned = struct.pack(f"<{len(tokens)}?", *(token % 2 for token in tokens))
    path.with_name(path.name + ".loss").write_bytes(learned)
    path.with_name(path.name + ".metadata").write_text(f"gpt2|{size}\n{len(tokens)}\n1 T")


DOCUMENTS = [[1, 2, 3], [], [60_000, 5], [6]]


@pytest.mark.parametrize("size", [2, 4])
def test_ours_are_as_datatroves(tmp_path: Path, size: int) -> None:
    write_datatrove(tmp_path / "theirs.ds", DOCUMENTS, size)
    with writing("output", tmp_path / "ours.ds", np.dtype(f"<u{size}"), "gpt2") as writer:
        for document in DOCUMENTS:
            learned = np.array(document, np.int64) % 2 == 1
            writer.add(Encoded(np.array(document, np.uint32), learned), ends=True)
    for suffix in ("", ".index", ".loss"):
        ours, theirs = ((tmp_path / f"{who}.ds{suffix}").read_bytes() for who in ("ours", "theirs"))
        assert ours == theirs
    assert sorted(file.name for file in tmp_path.iterdir())[:4] == [
        "ours.ds",
        "ours.ds.index",
        "ours.ds.loss",
        "ours.ds.metadata",
    ]
    for file in read_tokens("x", tmp_path):
        assert file.tokens.tolist() == [1, 2, 3, 60_000, 5, 6]
        assert file.ends.tolist() == [3, 3, 5, 6]
        assert file.learned is not None
        assert file.learned.tolist() == [True, False, True, False, True, False]


def test_a_mask_begins_with_what_first_needs_it(tmp_path: Path) -> None:
    with writing("output", tmp_path / "x.ds", np.dtype("<u2"), "t") as writer:
        writer.add(Encoded(np.array([1, 2])), ends=False)
        assert not (tmp_path / "x.ds").exists()
        writer.add(Encoded(np.array([3, 4]), np.array([False, True])), ends=True)
        writer.add(Encoded(np.array([5])), ends=True)
    file = read_file("x", tmp_path / "x.ds")
    assert file.learned is not None
    assert file.learned.tolist() == [True, True, False, True, True]
    assert file.ends.tolist() == [4, 5]


def test_what_fails_leaves_nothing(tmp_path: Path) -> None:
    made = writing("output", tmp_path / "x.ds", np.dtype("<u2"), "t")
    learned = np.array([True])
    with pytest.raises(ValueError, match="invalid literal"), made as writer:
        writer.add(Encoded(np.array(["no number"]), learned), ends=True)
    assert not list(tmp_path.iterdir())


def test_nanogpt(tmp_path: Path) -> None:
    for name, tokens in {"train": range(100), "val": range(100, 150)}.items():
        np.array(tokens, np.uint16).tofile(tmp_path / f"{name}.bin")
    (tmp_path / "meta.pkl").write_bytes(b"")
    corpus = load_corpus(tmp_path, length=10, stride=10)
    assert (corpus.windows("train"), corpus.windows("validation")) == (10, 5)
    batch = corpus.batch("validation", 0, 5)
    assert sorted(batch.tokens.flatten().tolist()) == list(range(100, 150))
    assert batch.positions is None
    assert are_tokens("x", tmp_path)
    assert are_tokens("x", tmp_path / "val.bin")
    assert not are_tokens("x", tmp_path / "meta.pkl")
    one = load_corpus(tmp_path / "val.bin", length=10, stride=10)
    assert (len(one.train), len(one.validation)) == (40, 10)


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        ("", b"123", "x.ds has 3 bytes, no whole number of uint16; make it again"),
        ("", b"12", "x.ds has 1 tokens, what lies beside it is of 6; make it again"),
        (".index", b"", "x.ds has 6 tokens, what lies beside it is of 0"),
        (".loss", b"11", "x.ds has 6 tokens, what lies beside it is of 2"),
        (".metadata", b"gpt2|8\n", "x.ds.metadata: a token has 2 or 4 bytes, got '8'"),
        (".metadata", b"", "x.ds.metadata: a token has 2 or 4 bytes, got ''"),
    ],
)
def test_damaged_files_are_refused(
    tmp_path: Path, suffix: str, content: bytes, message: str
) -> None:
    write_datatrove(tmp_path / "x.ds", DOCUMENTS)
    (tmp_path / f"x.ds{suffix}").write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        load_corpus(tmp_path, length=2, stride=2)
    assert str(error.value).startswith("data.path: ")


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "x.ds", tmp_path / "x.bin", tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=r"data.path: cannot read .*: No such file"):
            load_corpus(path, length=2, stride=2)


def test_what_is_not_complete_is_refused(tmp_path: Path) -> None:
    write_datatrove(tmp_path / "x.ds", DOCUMENTS)
    (tmp_path / "tokens.json").write_text('{"sources": 1}')
    with pytest.raises(ValueError, match=r"the tokens in .* are not complete; make it again"):
        load_corpus(tmp_path, length=2, stride=2)
    (tmp_path / "tokens.json").write_text("{")
    with pytest.raises(ValueError, match=r"cannot read .*tokens.json"):
        load_corpus(tmp_path, length=2, stride=2)


def interrupted(folder: Path, keep: tuple[type[BaseException], ...]) -> None:
    with new_folder("run.folder", folder, keep):
        (folder / "part").touch()
        raise KeyboardInterrupt


def test_what_an_interrupted_maker_left_is_kept_where_asked(tmp_path: Path) -> None:
    for keep in ((), (KeyboardInterrupt,)):
        folder = tmp_path / str(len(keep))
        with pytest.raises(KeyboardInterrupt):
            interrupted(folder, keep)
        assert folder.exists() == bool(keep)

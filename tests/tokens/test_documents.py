"""Sources are cut into parts, and parts into documents, of which none is lost or met twice."""

import json
import sysconfig
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from zeropp.tokens import documents as module
from zeropp.tokens import sources
from zeropp.tokens.documents import BadDocumentError, Chat, Document, Pair, Text, documents
from zeropp.tokens.sources import find_sources, parts_of, standard_library

SMALL = 500  # bytes of a part


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_PART_BYTES", SMALL)
    monkeypatch.setattr(module, "_PIECE", 100)
    monkeypatch.setattr(module, "_LOOK", 40)


def read(*paths: Path, field: str | None = None) -> list[list[Document]]:
    parts = parts_of(find_sources("files", paths))
    return [[document for _, document in documents("files", part, field)] for part in parts]


# --- parts


lines = st.lists(st.text("ab \n\r\tßé漢𝄞", max_size=150), max_size=30).map("\n".join)
reading = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@reading
@given(lines)
@pytest.mark.usefixtures("_small")
def test_a_text_is_its_pieces(tmp_path: Path, text: str) -> None:
    file = tmp_path / "x.txt"
    file.write_bytes(text.encode())
    parts = read(file)
    pieces = [piece for part in parts for piece in part if isinstance(piece, Text)]
    assert b"".join(piece.text for piece in pieces) == text.encode()
    for piece in pieces:
        piece.text.decode()  # no character is cut
    for part in parts:
        assert [piece.begins for piece in part] == [True, *[False] * (len(part) - 1)]
        assert [piece.ends for piece in part] == [*[False] * (len(part) - 1), True]


@reading
@given(st.lists(st.text(max_size=200), max_size=30))
@pytest.mark.usefixtures("_small")
def test_every_line_is_met_once(tmp_path: Path, texts: list[str]) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text("".join(json.dumps({"prompt": t, "completion": ""}) + "\n\n" for t in texts))
    found = [document for part in read(file) for document in part]
    assert found == [Pair(text, "") for text in texts]


@given(st.lists(st.integers(0, 3000), max_size=30))
@reading
@pytest.mark.usefixtures("_small")
def test_parts_are_of_about_equal_size(tmp_path: Path, sizes: list[int]) -> None:
    for number, size in enumerate(sizes):
        (tmp_path / f"{number:02}.txt").write_bytes(b"x" * size)
    every = find_sources("files", [tmp_path / f"{n:02}.txt" for n in range(len(sizes))])
    parts = parts_of(every)
    assert sum(map(sources.part_size, parts)) == sum(sizes)
    assert all(sources.part_size(part) <= 2 * SMALL for part in parts)
    assert len(parts) <= sum(sizes) // SMALL + 1
    flat = [(each.source.path, each.start, each.stop) for part in parts for each in part]
    assert flat == sorted(flat)


def test_a_folder_is_read_sorted_and_below_without_hidden_or_other_files(tmp_path: Path) -> None:
    for name in ("z.txt", "b/a.md", "b.py", ".git/a.txt", ".hidden.txt", "b/image.png", "a.jsonl"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps({"text": name}))
    (tmp_path / "empty.txt").touch()
    (tmp_path / "broken.txt").symlink_to(tmp_path / "nowhere")
    texts = [document.text for part in read(tmp_path) for document in part]
    assert texts == [
        b"a.jsonl",
        *(b'{"text": "%b"}' % name for name in (b"b.py", b"b/a.md", b"z.txt")),
    ]


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
    assert [source.path for source in standard_library()] == [str(tmp_path / k) for k in kept]
    monkeypatch.setattr(sources, "_STDLIB_BYTES", 100)
    assert len(standard_library()) == 2


# --- records


def of_record(tmp_path: Path, record: object, field: str | None = None) -> list[Document]:
    (tmp_path / "x.jsonl").write_text("\n" + json.dumps(record))
    (found,) = read(tmp_path / "x.jsonl", field=field)
    return found


def test_records(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert of_record(tmp_path, {"text": "a", "id": 1}) == [Text(b"a")]
    assert of_record(tmp_path, {"text": ""}) == []
    assert of_record(tmp_path, {"prompt": "a", "completion": "b"}) == [Pair("a", "b")]
    assert of_record(tmp_path, {"messages": said}) == [Chat(said)]
    assert of_record(tmp_path, {"messages": said, "body": "ß"}, "body") == [Text("ß".encode())]


@pytest.mark.parametrize(
    ("record", "field", "message"),
    [
        ({"a": 1, "b": 2}, None, "it has no field 'text', but a, b; name"),
        ({"text": "a"}, "body", "it has no field 'body', but text; name"),
        ({"text": 1}, None, "its 'text' must be text, got int"),
        ({"text": "\ud800"}, None, "surrogates not allowed"),
        ({"prompt": "a", "completion": None}, None, "its 'completion' must be text, got NoneType"),
        ([1], None, "wanted an object with fields, got list"),
        ({"messages": "a"}, None, "messages must be a list of objects with role and content"),
        ({"messages": ["a"]}, None, "each of its messages must be an object with role"),
    ],
)
def test_bad_records(tmp_path: Path, record: object, field: str | None, message: str) -> None:
    with pytest.raises(BadDocumentError) as error:
        of_record(tmp_path, record, field)
    assert str(error.value).startswith(f"files: {tmp_path}/x.jsonl, line 2: ")
    assert message in str(error.value)


@pytest.mark.parametrize("line", [b"{", b'{"text": "\xff"}', b"[" * 100_000])
def test_bad_lines(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'{"text": "a"}\n\n' + line)
    with pytest.raises(BadDocumentError, match=r"x.jsonl, line 3: it is no JSON \("):
        read(tmp_path)


@pytest.mark.parametrize("name", ["nowhere", "empty", "several"])
def test_bad_paths(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "several").mkdir()
    (tmp_path / "several" / "dataset_dict.json").touch()
    with pytest.raises(ValueError, match=f"files: .*{name}.*name") as error:
        find_sources("files", [tmp_path / name])
    assert "\n" not in str(error.value)

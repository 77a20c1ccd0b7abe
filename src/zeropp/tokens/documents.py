"""The documents of a part: text in pieces, prompts with completions, and chats."""

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from zeropp.ir.files import explained
from zeropp.tokens.sources import Part, Range, Source
from zeropp.tokens.tables import rows

_PIECE = 2**18
_LOOK = 2**16
_BETWEEN_WORDS = re.compile(rb"\S\n(?=\S)")


class Text(NamedTuple):
    """A piece of a document, in UTF-8: whether the document begins and ends with it.

    Pieces are cut at the end of a line, where byte-level tokenizers part what stands on both sides.
    """

    text: bytes
    begins: bool = True
    ends: bool = True


class Pair(NamedTuple):
    """A prompt, of which nothing is learned, and what shall follow it."""

    prompt: str
    completion: str


class Chat(NamedTuple):
    """Messages, each with a role and a content; what the assistant says is learned."""

    messages: list[dict[str, Any]]


Document = Text | Pair | Chat


class Place(NamedTuple):
    """Where documents stand: in a text, a line that begins at a byte, or a row of a table."""

    source: Source
    at: int

    def __str__(self) -> str:
        if self.source.kind == "text":
            return self.source.path
        if self.source.kind != "jsonl":
            return f"{self.source.path}, row {self.at + 1}"
        with open(self.source.path, "rb") as file:
            return f"{self.source.path}, line {1 + sum(1 for _ in _lines(file, 0, self.at))}"


class BadDocumentError(ValueError):
    """A document that cannot be used, and where it is."""


@contextmanager
def placed(what: str, place: Place) -> Iterator[None]:
    """ValueErrors of the body with `what`, an option, and the place."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise BadDocumentError(
            f"{what}: {place}: it is no text in UTF-8 (byte {place.at + error.start}); convert it, "
            "or leave it out"
        ) from error
    except ValueError as error:
        raise BadDocumentError(f"{what}: {place}: {error}") from error


def documents(what: str, part: Part, field: str | None) -> Iterator[tuple[Place, Document]]:
    """Each with its place.

    Args:
        what: the option with which complaints begin.
        part: read in order.
        field: of a record, the one that holds its text; None: `messages`, or `prompt` with
            `completion`, or `text`, whichever it has.

    Raises:
        ValueError: a line or a record that cannot be used.
    """
    for each in part:
        if each.source.kind == "text":
            with _opened(what, each.source) as file:
                found = _pieces(file, each.start, each.stop, each.source.length)
                yield from ((Place(each.source, at), text) for at, text in found)
        for place, record in _records(what, each):
            with placed(what, place):
                made = list(_of_record(record, field))
            yield from ((place, document) for document in made)


def _opened(what: str, source: Source) -> BinaryIO:
    with explained(f"{what}: cannot read", Path(source.path)):
        return open(source.path, "rb")


def _pieces(file: BinaryIO, start: int, stop: int, length: int) -> Iterator[tuple[int, Text]]:
    """Of a range of all that is in a file, which is a document of its own; each with its place."""
    first = start = _cut(file, start) if start else 0
    stop = _cut(file, stop) if stop < length else stop
    while start < stop:
        end = _cut(file, start + _PIECE) if start + _PIECE < stop else stop
        end = min(end, stop)
        file.seek(start)
        yield start, Text(file.read(end - start), start == first, end == stop)
        start = end


def _cut(file: BinaryIO, at: int) -> int:
    """The first place from `at` on that is between words of two lines; or else, lines; or else,
    characters.
    """
    file.seek(at - 2)
    ahead = file.read(_LOOK)
    if found := _BETWEEN_WORDS.search(ahead):
        return at - 2 + found.end()
    if line := ahead.find(b"\n", 1) + 1:
        return at - 2 + line
    rest = (place for place in range(2, len(ahead)) if ahead[place] & 0xC0 != 0x80)
    return at - 2 + next(rest, len(ahead))


def _lines(file: BinaryIO, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    """Those that begin between, each with where."""
    at = start
    if start:  # the line before ends here at the earliest
        file.seek(start - 1)
        at += len(file.readline()) - 1
    while at < stop and (line := file.readline()):
        yield at, line
        at += len(line)


def _records(what: str, each: Range) -> Iterator[tuple[Place, Any]]:
    source, start, stop = each
    if source.kind == "jsonl":
        with _opened(what, source) as file:
            found = _lines(file, start, stop)
            yield from ((Place(source, at), line) for at, line in found if line.strip())
    elif source.kind != "text":
        for at, row in enumerate(rows(source.kind, Path(source.path), start, stop), start):
            yield Place(source, at), row


def _of_record(record: Any, field: str | None) -> Iterator[Document]:
    if isinstance(record, bytes):
        try:
            record = json.loads(record)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"it is no JSON ({error}); write an object in one line") from error
    if not isinstance(record, dict):
        raise ValueError(f"wanted an object with fields, got {type(record).__name__}")
    if field is None and "messages" in record:
        yield Chat(_messages(record["messages"]))
    elif field is None and "prompt" in record and "completion" in record:
        yield Pair(_text_in(record, "prompt"), _text_in(record, "completion"))
    else:
        text = _text_in(record, field or "text").encode()
        yield from (piece for _, piece in _pieces(io.BytesIO(text), 0, len(text), len(text)))


def _text_in(record: dict[str, Any], field: str) -> str:
    if field not in record:
        fields = ", ".join(record) or "none"
        raise ValueError(f"it has no field {field!r}, but {fields}; name the field of its text")
    if not isinstance(record[field], str):
        raise ValueError(f"its {field!r} must be text, got {type(record[field]).__name__}")
    found: str = record[field]
    return found


def _messages(given: Any) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not given:
        raise ValueError("its messages must be a list of objects with role and content")
    for message in given:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ValueError("each of its messages must be an object with role and content")
    return given

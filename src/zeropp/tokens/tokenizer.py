"""What makes tokens of documents: bytes, a `tokenizer.json`, or a model's folder with its chats."""

import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zeropp.ir.files import explained
from zeropp.tokens.chat import encode_chat
from zeropp.tokens.documents import Chat, Document, Text
from zeropp.tokens.files import Encoded

BYTES = "bytes"
_ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")  # as a lone tokenizer.json has them
_TELLING = frozenset({".json", ".jinja", ".model", ".txt"})
_BESIDE = "tokenizer_config.json"
_FIX = "name a tokenizer.json, a model's folder, or bytes"


class Tokenizer(Protocol):
    """Makes tokens of documents."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest token."""
        ...

    @property
    def end(self) -> str | None:
        """What is put after a document, where something is."""
        ...

    def encode(self, document: Document) -> Encoded:
        """Of a document, or of a piece of one.

        Raises:
            ValueError: it cannot be encoded.
        """
        ...

    def encode_texts(self, pieces: Sequence[Text]) -> list[Encoded]:
        """The same of many, which a library does on several cores."""
        ...


class ByteTokenizer:
    """Bytes are tokens, and nothing ends a document."""

    vocab_size = 256
    end = None

    def encode(self, document: Document) -> Encoded:
        """As the protocol says."""
        if isinstance(document, Text):
            return Encoded(np.frombuffer(document.text, np.uint8))
        if isinstance(document, Chat):
            raise ValueError("messages need a chat template: a model's folder as the tokenizer")
        prompt, completion = (text.encode() for text in document)
        tokens = np.frombuffer(prompt + completion, np.uint8)
        return Encoded(tokens, np.arange(len(tokens)) >= len(prompt))

    def encode_texts(self, pieces: Sequence[Text]) -> list[Encoded]:
        """As the protocol says."""
        return list(map(self.encode, pieces))


class LibraryTokenizer:
    """One of the library `tokenizers`, with what it puts before and after a document."""

    def __init__(self, library: Any, end: str | None, chat: Any = None) -> None:
        library.no_truncation()
        library.no_padding()
        self._library, self._chat, self.end = library, chat, end
        self.vocab_size = 1 + max(library.get_vocab(with_added_tokens=True).values())
        bare, framed = (library.encode("a", add_special_tokens=add).ids for add in (False, True))
        at = next(at for at in range(len(framed)) if framed[at : at + len(bare)] == bare)
        self._before, self._after = framed[:at], framed[at + len(bare) :]
        last = None if end is None else library.token_to_id(end)
        if last is None and end is not None:
            raise ValueError(f"it has no token {end!r}, with which documents shall end")
        if last is not None and last not in self._after:
            self._after = [*self._after, last]

    def encode(self, document: Document) -> Encoded:
        """As the protocol says."""
        if isinstance(document, Text):
            return self.encode_texts([document])[0]
        if isinstance(document, Chat):
            if self._chat is None:
                raise ValueError("messages need a chat template, which this tokenizer has not")
            return encode_chat(self._chat, document.messages)
        found = self._library.encode("".join(document), add_special_tokens=False)
        answers = [stop > len(document.prompt) for _, stop in found.offsets]
        learned = [*(False for _ in self._before), *answers, *(True for _ in self._after)]
        tokens = [*self._before, *found.ids, *self._after]
        return Encoded(np.array(tokens, np.uint32), np.array(learned, np.bool_))

    def encode_texts(self, pieces: Sequence[Text]) -> list[Encoded]:
        """As the protocol says."""
        texts = [piece.text.decode() for piece in pieces]
        found = self._library.encode_batch_fast(texts, add_special_tokens=False)
        return [self._framed(*pair) for pair in zip(pieces, found, strict=True)]

    def _framed(self, piece: Text, found: Any) -> Encoded:
        ids = [*(self._before if piece.begins else ()), *found.ids]
        return Encoded(np.array(ids + self._after if piece.ends else ids, np.uint32))


@cache
def load_tokenizer(name: str) -> Tokenizer:
    """`bytes`, a `tokenizer.json`, or the folder of a model of transformers.

    Raises:
        ValueError: it is none, or what reads it is not installed.
    """
    path = Path(name)
    if name == BYTES:
        return ByteTokenizer()
    with explained("tokenizer: cannot read", path):
        if not name or not (path.is_file() or (path / "tokenizer.json").is_file()):
            said = "holds no tokenizer.json" if name and path.is_dir() else "is no file or folder"
            raise ValueError(f"tokenizer: {name!r} {said}; {_FIX}")
    try:
        return _of_model(path) if path.is_dir() else _of_file(path)
    except ImportError as error:
        raise ValueError(f"tokenizer: {error}; pip install 'zeropp[hf]'") from error
    except Exception as error:  # the library raises no narrower class
        raise ValueError(f"tokenizer: cannot read {name!r} ({error}); {_FIX}") from error


def _of_model(folder: Path) -> Tokenizer:
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    chat = found if found.chat_template else None
    return LibraryTokenizer(found.backend_tokenizer, found.eos_token, chat)


def _of_file(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer as Library

    library, beside = Library.from_file(str(path)), path.with_name(_BESIDE)
    if beside.is_file():
        end = json.loads(beside.read_text("utf-8")).get("eos_token")
        return LibraryTokenizer(library, end["content"] if isinstance(end, dict) else end)
    known = (end for end in _ENDS if library.token_to_id(end) is not None)
    return LibraryTokenizer(library, next(known, None))


def fingerprint(name: str) -> str:
    """Of all that decides what a tokenizer makes.

    Raises:
        ValueError: it cannot be read.
    """
    path, digest = Path(name), hashlib.sha256(name.encode())
    with explained("tokenizer: cannot read", path):
        for file in _files_of(path) if name != BYTES else ():
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def _files_of(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix in _TELLING)
    beside = path.with_name(_BESIDE)
    return [path, beside] if beside.is_file() else [path]


def decode(tokens: NDArray[Any]) -> str:
    """Text of bytes as tokens, any shape; those that are no byte, and no UTF-8, become U+FFFD."""
    known = (bytes((t,)) if t < 256 else "\ufffd".encode() for t in tokens.flatten().tolist())
    return b"".join(known).decode("utf-8", errors="replace")

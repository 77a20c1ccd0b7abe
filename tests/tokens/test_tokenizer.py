"""Documents become tokens, and it is known which of them are learned."""

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from support.bpe import TEMPLATE
from zeropp.tokens import BYTES, decode
from zeropp.tokens import documents as module
from zeropp.tokens.documents import Chat, Pair, Text, documents
from zeropp.tokens.sources import find_sources, parts_of
from zeropp.tokens.tokenizer import fingerprint, load_tokenizer

CHAT = Chat(
    [
        {"role": "user", "content": "What is it?"},
        {"role": "assistant", "content": "A test."},
        {"role": "user", "content": "And then?"},
        {"role": "assistant", "content": "Nothing."},
    ]
)


def learned(library: Tokenizer, tokenizer: str | Path, document: Chat | Pair) -> str:
    tokens, said = load_tokenizer(str(tokenizer)).encode(document)
    assert said is not None
    return library.decode(tokens[said].tolist(), skip_special_tokens=False)


def test_bytes() -> None:
    tokenizer = load_tokenizer(BYTES)
    tokens, said = tokenizer.encode(Text("grüße".encode()))
    assert decode(tokens) == "grüße"
    assert said is None
    tokens, said = tokenizer.encode(Pair("für ", "wäre"))
    assert decode(tokens) == "für wäre"
    assert said is not None
    assert decode(tokens[said]) == "wäre"
    with pytest.raises(ValueError, match="messages need a chat template"):
        tokenizer.encode(CHAT)


def test_a_tokenizers_file(bpe: Path) -> None:
    library, tokenizer = Tokenizer.from_file(str(bpe)), load_tokenizer(str(bpe))
    assert tokenizer.vocab_size == library.get_vocab_size()
    assert tokenizer.end == "<|endoftext|>"
    text = "def made(begin: bool):\n    return grüße\n"
    tokens, _ = tokenizer.encode(Text(text.encode()))
    assert tokens.tolist() == [*library.encode(text).ids, 0]
    pieces = [tokenizer.encode(Text(p.encode(), n == 0, n == 1)) for n, p in enumerate("ab")]
    ids = [token for piece in pieces for token in piece.tokens]
    assert ids == [*library.encode("a").ids, *library.encode("b").ids, 0]
    assert learned(library, bpe, Pair("made", " begin")) == " begin<|endoftext|>"
    with pytest.raises(ValueError, match="a chat template, which this tokenizer has not"):
        tokenizer.encode(CHAT)


def test_pieces_of_a_text_make_the_tokens_of_the_whole(
    bpe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PIECE", 300)
    (part,) = parts_of(find_sources("files", [Path(__file__)]))
    texts = [document for _, document in documents("files", part, None)]
    assert len(texts) > 4
    found = [token for text in texts for token in load_tokenizer(str(bpe)).encode(text).tokens]
    whole = Path(__file__).read_text("utf-8")
    assert found == [*Tokenizer.from_file(str(bpe)).encode(whole).ids, 0]


def test_a_models_folder(model: Path) -> None:
    library, tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json"), load_tokenizer(str(model))
    tokens, _ = tokenizer.encode(Text(b"made"))
    assert library.decode(tokens.tolist(), skip_special_tokens=False) == "<|start|>made<|end|>"
    assert learned(library, model, Pair("made", " begin")) == " begin<|end|>"


@pytest.mark.parametrize("marked", [False, True])
def test_what_the_assistant_says_is_learned(model: Path, tmp_path: Path, marked: bool) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    answer = "{{ message.content }}<|end|>"
    inside = f"{{% generation %}}{answer}{{% endgeneration %}}" if marked else answer
    (folder / "chat_template.jinja").write_text(TEMPLATE.replace(answer, inside))
    library = Tokenizer.from_file(f"{model}/tokenizer.json")
    assert learned(library, folder, CHAT) == "A test.<|end|>Nothing.<|end|>"
    tokens, _ = load_tokenizer(str(folder)).encode(CHAT)
    assert library.decode(tokens.tolist(), skip_special_tokens=False) == (
        "<|start|><user>What is it?\n<assistant>A test.<|end|>"
        "<user>And then?\n<assistant>Nothing.<|end|>"
    )


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            TEMPLATE.replace("<{{ message.role }}>", "<{{ loop.revindex }}>"),
            "changes what was said",
        ),
        ("{{ raise_exception('no roles') }}", r"the chat template refuses its messages \(no roles"),
    ],
)
def test_a_template_that_does_not_tell(
    model: Path, tmp_path: Path, template: str, message: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(ValueError, match=message):
        load_tokenizer(str(folder)).encode(CHAT)


def test_the_end_is_told_by_a_configuration_beside(bpe: Path, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    shutil.copy(bpe, path)
    for told in ("<|end|>", {"content": "<|end|>"}, None, "<|no|>"):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": told}))
        load_tokenizer.cache_clear()
        if told == "<|no|>":
            with pytest.raises(ValueError, match="with which documents shall end"):
                load_tokenizer(str(path))
        else:
            assert load_tokenizer(str(path)).end == (told and "<|end|>")


def test_a_fingerprint_is_of_what_decides(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    first = fingerprint(str(folder))
    (folder / "model.safetensors").write_bytes(b"")
    assert fingerprint(str(folder)) == first
    (folder / "chat_template.jinja").write_text("other")
    assert fingerprint(str(folder)) != first
    (tmp_path / "own.json").write_text("{}")
    found = fingerprint(str(tmp_path / "own.json"))
    (tmp_path / "own.json").write_text("[]")
    assert fingerprint(str(tmp_path / "own.json")) != found
    assert fingerprint(BYTES) == fingerprint(BYTES) != first


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "'nowhere' is no file or folder; name a tokenizer.json"),
        ("empty", "'empty' holds no tokenizer.json; name"),
        ("bad.json", r"cannot read 'bad.json' \("),
    ],
)
def test_no_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("bad.json").write_text("{}")
    with pytest.raises(ValueError, match=message):
        load_tokenizer(name)

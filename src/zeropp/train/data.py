"""Which tokens a run reads: made before its ranks start, mapped by each of them."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from zeropp.ir.files import new_folder
from zeropp.tokens import BYTES, Corpus, are_tokens, cached, load_corpus
from zeropp.train.config import Config

if TYPE_CHECKING:
    from zeropp.train.model import Model


def make_tokens(config: Config) -> Path:
    """Where the run's token files are, made if they are not there; shared by all of `run.folder`.

    Raises:
        ValueError: no text, a document that cannot be used, or a model without a tokenizer.
    """
    hf = config.model.hf
    if hf is not None and not _are_tokens(config) and not (Path(hf) / "tokenizer.json").is_file():
        raise ValueError(
            f"model.hf: {hf} holds no tokenizer.json, which would make tokens of text; set "
            "data.path to token files"
        )
    return cached(config.data.path, hf or BYTES, _folder(config), config.data.field)


def check_corpus(config: Config, model: "Model") -> None:
    """Make the tokens and refuse what `open_corpus` would; where it fails, all is as before, but of
    what was made until Ctrl-C, with which the next run goes on.

    Raises:
        ValueError: as `open_corpus` does.
    """
    folder = new_folder("run.folder", _folder(config), keep=(KeyboardInterrupt,))
    with nullcontext() if _are_tokens(config) else folder:
        open_corpus(config, model)


def open_corpus(config: Config, model: "Model") -> Corpus:
    """Windows for the model.

    Raises:
        ValueError: too little text, or tokens outside of the model's vocabulary.
    """
    length, stride = config.data.seq_len + model.ahead, config.data.seq_len
    path = make_tokens(config)
    return load_corpus(path, length=length, stride=stride, vocab_size=model.vocab_size)


def _are_tokens(config: Config) -> bool:
    path = config.data.path
    return path is not None and are_tokens("data.path", Path(path))


def _folder(config: Config) -> Path:
    return Path(config.run.folder) / "tokens"

"""Which tokens a run reads: made before its ranks start, mapped by each of them."""

from contextlib import nullcontext
from pathlib import Path

from zeropp.ir.files import new_folder
from zeropp.tokens import BYTES, Corpus, cached, load_corpus
from zeropp.tokens.files import are_tokens
from zeropp.train.config import Config


def make_tokens(config: Config) -> Path:
    """Where the run's token files are, made if they are not there; shared by all of `run.folder`.

    Raises:
        ValueError: no text, or a document that cannot be used.
    """
    return cached(config.data.path, BYTES, _folder(config), config.data.field)


def check_corpus(config: Config) -> None:
    """Make the tokens and refuse what `open_corpus` would; where it fails, all is as before.

    Raises:
        ValueError: as `open_corpus` does.
    """
    path = config.data.path
    there = path is not None and are_tokens("data.path", Path(path))
    with nullcontext() if there else new_folder("run.folder", _folder(config)):
        open_corpus(config)


def open_corpus(config: Config) -> Corpus:
    """Windows for the GPT: one token more than a sequence, whose inputs and targets they hold.

    Raises:
        ValueError: too little text, or tokens outside of the model's vocabulary.
    """
    seq_len, vocab_size = config.data.seq_len, config.model.gpt().vocab_size
    path = make_tokens(config)
    return load_corpus(path, length=seq_len + 1, stride=seq_len, vocab_size=vocab_size)


def _folder(config: Config) -> Path:
    return Path(config.run.folder) / "tokens"

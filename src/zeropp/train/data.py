"""Which tokens a run reads: made before its ranks start, mapped by each of them."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

from zeropp.ir.files import new_folder
from zeropp.tokens import BYTES, Corpus, Split, are_tokens, cached, load_corpus
from zeropp.train.config import Config

if TYPE_CHECKING:
    from zeropp.train.model import Model

Corpora = tuple[Corpus, dict[str, Corpus]]
_SPLITS: tuple[Split, Split] = ("train", "validation")


def make_tokens(config: Config, path: str | None = None) -> Path:
    """Where token files are, made if they are not there, of `path` or of the run's own text; shared
    by all of `run.folder`.

    Raises:
        ValueError: no text, a document that cannot be used, or a model without a tokenizer.
    """
    hf, path = config.model.hf, path or config.data.path
    if hf is not None and not _are_tokens(path) and not (Path(hf) / "tokenizer.json").is_file():
        raise ValueError(
            f"model.hf: {hf} holds no tokenizer.json, which would make tokens of text; set "
            "data.path to token files"
        )
    return cached(path, hf or BYTES, _folder(config), config.data.field)


def check_corpus(config: Config, model: "Model") -> None:
    """Make the tokens and refuse what `open_corpus` would; where it fails, all is as before, but of
    what was made until Ctrl-C, with which the next run goes on.

    Raises:
        ValueError: as `open_corpus` does.
    """
    folder = new_folder("run.folder", _folder(config), keep=(KeyboardInterrupt,))
    sets = eval_sets(config)
    with nullcontext() if all(map(_are_tokens, (config.data.path, *sets.values()))) else folder:
        open_corpora(config, model)


def eval_sets(config: Config) -> dict[str, str]:
    """What is evaluated besides the run's own held-out text: paths by their names."""
    parts = (one.partition("=") for one in config.data.eval_sets)
    return {name: path for name, _, path in parts}


def open_corpus(config: Config, model: "Model", path: str | None = None) -> Corpus:
    """Windows for the model, of `path` or of the run's own text.

    Raises:
        ValueError: too little text, or tokens outside of the model's vocabulary.
    """
    length, stride = config.data.seq_len + model.ahead, config.data.seq_len
    tokens = make_tokens(config, path)
    return load_corpus(tokens, length=length, stride=stride, vocab_size=model.vocab_size)


def open_corpora(config: Config, model: "Model") -> Corpora:
    """The run's own text, and what is evaluated besides it, by name; ValueError as above."""
    own, sets = open_corpus(config, model), eval_sets(config)
    return own, {name: open_corpus(config, model, path) for name, path in sets.items()}


def fingerprints(corpora: Corpora) -> dict[str, object]:
    """What hosts that read the same tokens see alike, by name: windows, and the first of each."""
    own, sets = corpora
    named = {"data.path": own} | {f"data.eval_sets {name}": one for name, one in sets.items()}
    return {name: _fingerprint(corpus) for name, corpus in named.items()}


def _fingerprint(corpus: Corpus) -> list[tuple[int, int]]:
    first = ((split, corpus.batch(split, 0, 1).tokens) for split in _SPLITS)
    return [(corpus.windows(split), crc32(tokens.tobytes())) for split, tokens in first]


def _are_tokens(path: str | None) -> bool:
    return path is not None and are_tokens("data.path", Path(path))


def _folder(config: Config) -> Path:
    return Path(config.run.folder) / "tokens"

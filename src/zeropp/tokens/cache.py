"""Tokens of a run's data: themselves, or made once of text beside the run, for every later run."""

import hashlib
import json
from pathlib import Path

from zeropp.tokens.files import are_tokens
from zeropp.tokens.making import Job, make_tokens
from zeropp.tokens.sources import find_sources, standard_library


def cached(path: str | None, tokenizer: str, folder: Path, field: str | None = None) -> Path:
    """Where the token files of `path` are; what is not of tokens is tokenized below `folder` first.

    Processes that ask for the same wait for the one that makes it. Another text, tokenizer or field
    gets another folder.

    Args:
        path: a token file or a folder of such, which is taken as it is; or text, .jsonl, .parquet,
            a data set of `datasets`, or a folder of the first three; None: the sources of Python's
            standard library.
        tokenizer: `bytes`, a `tokenizer.json`, or a model's folder.
        folder: made where it is missing.
        field: of records, the one that holds text.

    Raises:
        ValueError: no text, or a document or tokenizer that cannot be used.
    """
    if path is not None and are_tokens("data.path", Path(path)):
        return Path(path)
    found = standard_library() if path is None else find_sources("data.path", [Path(path)])
    if not any(source.size for source in found):
        source = "the standard library" if path is None else repr(path)
        raise ValueError(f"data.path: {source} holds no text; set data.path to text")
    job = Job(tuple(found), tokenizer, field, "data.path", "run.folder")
    name = hashlib.sha256(json.dumps(job.described()).encode()).hexdigest()[:16]
    make_tokens(job, folder / name)
    return folder / name

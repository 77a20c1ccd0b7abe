"""`zeropp tokenize`: make token files of text, once, for any number of runs."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from zeropp.cli.verb import Verb


@dataclass(frozen=True)
class Tokenize(Verb):
    """Make token files of text, on all cores; stopped or killed, the same command goes on."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """Text, .jsonl, .parquet, data sets as `datasets` saves them, or folders with .txt, .py, .md,
    .jsonl and .parquet files. Every text file and every record is a document; a text file of many
    MiB is several."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """Folder for the tokens: .ds files as datatrove has them."""
    tokenizer: str
    """A tokenizer.json, the folder of a model of transformers, or bytes."""
    field: str | None = None
    """Of records, the field that holds the text; without it, whichever a record has: messages (of
    which answers are learned, by the model's chat template), prompt and completion (of which the
    completion is learned), or text."""

    def perform(self) -> int:
        """Make them, and say how many there are."""
        from zeropp.tokens.files import read_manifest
        from zeropp.tokens.making import Job, make_tokens
        from zeropp.tokens.sources import find_sources
        from zeropp.tokens.tokenizer import load_tokenizer

        if not self.files:
            raise ValueError("files: name text, .jsonl or .parquet files, or folders")
        job = Job(tuple(find_sources("files", self.files)), self.tokenizer, self.field)
        try:
            make_tokens(job, self.output)
        except KeyboardInterrupt:
            print("zeropp: stopped; the same command goes on from here", file=sys.stderr)
            return 130
        told = read_manifest("output", self.output)
        end = load_tokenizer(self.tokenizer).end
        print(
            f"{self.output}: {told['tokens']:,} tokens in {told['documents']:,} documents, "
            f"{'with no end of their own' if end is None else f'each with {end} at its end'}\n"
            f"next: zeropp train --data.path {self.output}"
        )
        return 0

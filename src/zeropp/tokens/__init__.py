"""Tokens on disk: made once of text, mapped, and read in an order that a step and a seed decide."""

from zeropp.tokens.cache import cached
from zeropp.tokens.corpus import Batch, Corpus, Split, load_corpus
from zeropp.tokens.files import are_tokens
from zeropp.tokens.tokenizer import BYTES, decode

__all__ = ["BYTES", "Batch", "Corpus", "Split", "are_tokens", "cached", "decode", "load_corpus"]

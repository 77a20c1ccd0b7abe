"""Decoders of Hugging Face transformers, unmodified, in a pipeline; needs `zeropp[hf]`."""

try:
    import transformers as _transformers  # noqa: F401
except ImportError as error:
    raise ImportError(
        "zeropp.hf needs transformers and safetensors; pip install 'zeropp[hf]'"
    ) from error

from zeropp.hf.cut import blocks, hf_name
from zeropp.hf.export import save
from zeropp.hf.labels import count_tokens, loss
from zeropp.hf.weights import load, on_meta

__all__ = ["blocks", "count_tokens", "hf_name", "load", "loss", "on_meta", "save"]

"""Decoders of Hugging Face transformers, unmodified, in a pipeline; needs `zeropp[hf]`."""

try:
    import transformers as _transformers  # noqa: F401
except ImportError as error:
    raise ImportError(
        "zeropp.hf needs transformers and safetensors; pip install 'zeropp[hf]'"
    ) from error

from zeropp.hf.adapters import adapt
from zeropp.hf.cut import blocks, hf_name
from zeropp.hf.export import save, save_states
from zeropp.hf.labels import count_tokens, loss
from zeropp.hf.parts import decoder_shape, kinds, sizes
from zeropp.hf.weights import check, load, on_meta

__all__ = [
    "adapt",
    "blocks",
    "check",
    "count_tokens",
    "decoder_shape",
    "hf_name",
    "kinds",
    "load",
    "loss",
    "on_meta",
    "save",
    "save_states",
    "sizes",
]

"""The model that a configuration names: the demo GPT, or a decoder from a folder."""

from typing import TYPE_CHECKING

from zeropp.ir.model import Sizes
from zeropp.train.config import ModelConfig

if TYPE_CHECKING:
    from zeropp.train.model import Model


def sizes_of(config: ModelConfig) -> Sizes:
    """Its sizes; of the GPT without torch.

    Raises:
        ValueError: a folder that holds no decoder, or zeropp[hf] is not installed.
    """
    if config.hf is None:
        gpt = config.gpt()
        return Sizes(gpt.num_blocks, gpt.vocab_size, gpt.seq_len)
    try:
        from zeropp import hf
    except ImportError as error:
        raise ValueError(f"model.hf: {error}") from error
    return hf.sizes(config.hf)


def checked_sizes(config: ModelConfig, seq_len: int | None, what: str) -> Sizes:
    """The same, once sequences of `seq_len` tokens are not too long; a ValueError names `what`."""
    sizes = sizes_of(config)
    if seq_len is not None and sizes.seq_len is not None and seq_len > sizes.seq_len:
        raise ValueError(f"{what} must be at most the model's {sizes.seq_len}, got {seq_len}")
    return sizes


def model_of(config: ModelConfig, seed: int = 0) -> "Model":
    """The model, on the meta device; `seed` is of its fresh weights.

    Raises:
        ValueError: a folder whose model cannot be trained, in one line.
    """
    if config.hf is None:
        from zeropp.train.gpt import demo_gpt

        return demo_gpt(config.gpt(), seed)
    from zeropp.train.decoder import decoder

    return decoder(config, config.hf, seed)

"""The model that a configuration names: the demo GPT, or a decoder from a folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from zeropp.ir.model import Sizes
from zeropp.train.config import ModelConfig

if TYPE_CHECKING:
    from zeropp.planner.decoder import DecoderShape
    from zeropp.train.model import Model

_USUAL = 2048  # tokens of a sequence, where a model's longest may be far too long


def sizes_of(config: ModelConfig) -> Sizes:
    """Its sizes; of the GPT without torch.

    Raises:
        ValueError: a folder that holds no decoder, or zeropp[hf] is not installed.
    """
    if config.hf is None:
        gpt = config.gpt()
        return Sizes(gpt.num_blocks, gpt.vocab_size, gpt.seq_len)
    with _explained():
        from zeropp import hf

        return hf.sizes(config.hf)


def module_of(config: ModelConfig) -> str:
    """The module that makes the model, by name: of a folder's, two seconds to import."""
    return "zeropp.train.gpt" if config.hf is None else "zeropp.train.decoder"


def length_of(config: ModelConfig, seq_len: int | None, what: str) -> int:
    """`seq_len`; without it, the model's longest sequence, at most 2048 tokens of a folder's.

    Raises:
        ValueError: it is longer than the longest; begins with `what`.
    """
    longest = sizes_of(config).seq_len or seq_len or _USUAL
    if seq_len is None:
        return longest if config.hf is None else min(longest, _USUAL)
    if seq_len > longest:
        raise ValueError(f"{what} must be from 1 to the model's {longest}, got {seq_len}")
    return seq_len


def shape_of(config: ModelConfig) -> "DecoderShape":
    """What the analytic profile asks of a folder's model; its weights are not looked at.

    Raises:
        ValueError: why it cannot be said, in one line.
    """
    with _explained():
        from zeropp.train.decoder import decoder_shape

        return decoder_shape(config)


def model_of(config: ModelConfig, seed: int = 0) -> "Model":
    """The model, on the meta device; `seed` is of its fresh weights.

    Raises:
        ValueError: a folder whose model cannot be trained, in one line.
    """
    if config.hf is None:
        from zeropp.train.gpt import demo_gpt

        return demo_gpt(config.gpt(), seed)
    with _explained():
        from zeropp.train.decoder import decoder

        return decoder(config, seed)


def checked_model_of(config: ModelConfig) -> "Model":
    """The model, once its weights' files were looked at, of which only the headers are read.

    Raises:
        ValueError: a folder whose model cannot be trained, in one line.
    """
    model = model_of(config)
    with _explained():
        model.check()
    return model


@contextmanager
def _explained() -> Iterator[None]:
    """What is wrong with a folder, or that zeropp[hf] is not installed, after the option's name."""
    try:
        yield
    except (ValueError, ImportError) as error:
        named = str(error).startswith("model.")
        raise ValueError(str(error) if named else f"model.hf: {error}") from error

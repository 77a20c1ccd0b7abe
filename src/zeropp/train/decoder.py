"""A decoder of Hugging Face transformers, from a folder, as the trainer sees it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn

from zeropp import checkpoint, hf
from zeropp.planner.decoder import DecoderShape
from zeropp.runtime.inputs import Part
from zeropp.train.config import ModelConfig
from zeropp.train.model import Model


def decoder(config: ModelConfig, seed: int = 0) -> Model:
    """With the folder's weights, and adapters where the configuration asks for them.

    Raises:
        ValueError: why this folder's model cannot be trained, in one line.
    """
    folder = str(config.hf)
    model = _on_meta(config)
    blocks = hf.blocks(model, head_tokens=config.head_tokens)
    return Model(
        blocks=blocks,
        kinds=hf.kinds(model),
        fill={"load": hf.load(folder, model, seed)},
        loss_fn=hf.loss(model),
        tokens=hf.count_tokens,
        batch=_batch,
        ahead=0,
        vocab_size=hf.sizes(folder).vocab_size,
        text=_text(Path(folder) / "tokenizer.json"),
        export=partial(_export, model, blocks, config.lora is not None),
        check=partial(hf.check, folder, model),
    )


def decoder_shape(config: ModelConfig) -> DecoderShape:
    """What the analytic profile asks of the folder's model; ValueError as for `decoder`."""
    model = _on_meta(config)
    return hf.decoder_shape(model, hf.blocks(model))


def _on_meta(config: ModelConfig) -> nn.Module:
    model = hf.on_meta(str(config.hf))
    if config.lora is None:
        return model
    alpha = config.lora_alpha or 2 * config.lora
    try:
        return hf.adapt(model, config.lora, alpha, config.lora_targets)
    except ValueError as error:
        raise ValueError(f"model.lora_{error}") from error


def _text(file: Path) -> Callable[[NDArray[Any]], str] | None:
    if not file.is_file():
        return None
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises no narrower class
        raise ValueError(f"{file}: it is no tokenizer: {error}") from error
    return lambda tokens: str(tokenizer.decode(tokens.tolist()))


def _batch(tokens: Tensor, labels: Tensor, positions: Tensor | None) -> Part:
    return (tokens, labels) if positions is None else (tokens, labels, {"positions": positions})


def _export(
    model: nn.Module, blocks: list[nn.Module], adapted: bool, path: Path, folder: Path
) -> str:
    hf.save_states(checkpoint.stored(path, blocks, adapted), len(blocks), model, folder)
    if adapted:
        return "adapters in the format of peft, which PeftModel.from_pretrained reads"
    return "a model of transformers, which from_pretrained reads"

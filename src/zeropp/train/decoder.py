"""A decoder of Hugging Face transformers, from a folder, as the trainer sees it."""

from functools import partial
from pathlib import Path

from torch import Tensor, nn

from zeropp import checkpoint, hf
from zeropp.runtime.inputs import Part
from zeropp.train.config import ModelConfig
from zeropp.train.model import Model


def decoder(config: ModelConfig, folder: str, seed: int = 0) -> Model:
    """With the folder's weights, and adapters where the configuration asks for them.

    Raises:
        ValueError: why this folder's model cannot be trained, in one line.
    """
    model: nn.Module = hf.on_meta(folder)
    if config.lora is not None:
        alpha = config.lora_alpha or 2 * config.lora
        model = hf.adapt(model, config.lora, alpha, config.lora_targets)
    blocks = hf.blocks(model)
    hf.check(folder, model)
    return Model(
        blocks,
        hf.kinds(model),
        {"load": hf.load(folder, model, seed)},
        hf.loss(model),
        hf.count_tokens,
        _batch,
        hf.sizes(folder).vocab_size,
        partial(_export, model, blocks, config.lora is not None),
    )


def _batch(tokens: Tensor, labels: Tensor, positions: Tensor | None) -> Part:
    return (tokens, labels) if positions is None else (tokens, labels, {"positions": positions})


def _export(
    model: nn.Module, blocks: list[nn.Module], adapted: bool, path: Path, folder: Path
) -> str:
    hf.save_states(checkpoint.stored(path, blocks, adapted), len(blocks), model, folder)
    if adapted:
        return "adapters in the format of peft, which PeftModel.from_pretrained reads"
    return "a model of transformers, which from_pretrained reads"

"""The demo GPT as the trainer sees it."""

from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zeropp import checkpoint
from zeropp.ir.model import GPTConfig
from zeropp.models import gpt_blocks, init_block
from zeropp.runtime.inputs import Part
from zeropp.tokens import decode
from zeropp.train.model import Model


def demo_gpt(gpt: GPTConfig, seed: int = 0) -> Model:
    """With fresh weights."""
    with torch.device("meta"):
        blocks = gpt_blocks(gpt)
    return Model(
        blocks=blocks,
        kinds=("embedding", *("layer",) * gpt.layers, "head"),
        fill={"init": lambda index, block: init_block(block, gpt, index, seed)},
        loss_fn=token_loss,
        tokens=None,
        batch=_batch,
        ahead=1,
        vocab_size=gpt.vocab_size,
        text=decode,
        export=partial(_export, blocks),
        check=lambda: None,
    )


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross-entropies of all tokens, in fp32."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum")


def _batch(tokens: Tensor, labels: Tensor, positions: Tensor | None) -> Part:
    """Targets are the tokens that follow; the GPT takes what is packed into a row as one text."""
    return tokens[:, :-1], labels[:, 1:]


def _export(blocks: list[nn.Module], path: Path, folder: Path) -> str:
    from zeropp.hf.shards import new_folder, write_shards

    states = (
        (index, {f"{index}.{name}": tensor for name, tensor in state.items()})
        for index, state in checkpoint.stored(path, blocks)
    )
    with new_folder(folder) as beside:
        write_shards(states, len(blocks), beside)
    return "safetensors under global names such as 1.attention.out.weight, not for transformers"

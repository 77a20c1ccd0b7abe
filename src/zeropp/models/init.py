"""Fresh weights for one block, the same wherever and in whatever order blocks are placed."""

import math
import random

import torch
from torch import Tensor, nn

from zeropp.ir.model import GPTConfig
from zeropp.models.gpt import Head

STD = 0.02
RESIDUAL_OUTPUTS = ("attention.out", "feed_forward.down")


@torch.no_grad()
def init_block(block: nn.Module, config: GPTConfig, index: int, seed: int) -> None:
    """Fill every parameter of block number `index` of `gpt_blocks(config)`, in place.

    The head's weight is left alone where it is the token table's.

    As GPT-2: weights normal with deviation 0.02, the two linear layers that write into the residual
    stream scaled by 1 / sqrt(2 layers), norms 1, biases 0 (Radford et al. 2019, section 2.3).
    Values depend on `seed`, `index` and the config only: they are drawn on the CPU in fp32, then
    copied to the parameter's device and dtype.

    Raises:
        ValueError: `index` is outside the list, a parameter is still on meta or is sharded, or a
            module is none of linear, embedding and norm.
    """
    if not 0 <= index < config.num_blocks:
        raise ValueError(f"index must be from 0 to {config.num_blocks - 1}, got {index}")
    generator = _generator(seed, index)
    for name, module in block.named_modules():
        own = dict(module.named_parameters(recurse=False))
        for parameter_name, parameter in own.items():
            _refuse_unfit(f"{name}.{parameter_name}", parameter)
        if config.tied and isinstance(block, Head) and isinstance(module, nn.Linear):
            continue
        if isinstance(module, nn.Linear | nn.Embedding):
            scale = 1 / math.sqrt(2 * config.layers) if name.endswith(RESIDUAL_OUTPUTS) else 1.0
            _draw_normal(own["weight"], STD * scale, generator)
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            own["weight"].fill_(1.0)
        elif own:
            raise ValueError(
                f"block: {name} is a {type(module).__name__}, which init_block does not know; "
                "initialise it yourself"
            )
        if "bias" in own:
            own["bias"].zero_()


def _generator(seed: int, index: int) -> torch.Generator:
    # torch's CPU generator keeps the low 32 bits of its seed, so the pair is hashed, not packed.
    return torch.Generator().manual_seed(random.Random(f"block {seed} {index}").getrandbits(32))


def _draw_normal(parameter: Tensor, std: float, generator: torch.Generator) -> None:
    parameter.copy_(torch.empty(parameter.shape).normal_(0.0, std, generator=generator))


def _refuse_unfit(name: str, parameter: Tensor) -> None:
    if parameter.is_meta:
        raise ValueError(f"block: {name} is on meta; call block.to_empty(device=...) first")

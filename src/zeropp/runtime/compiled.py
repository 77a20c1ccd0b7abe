"""Blocks under `torch.compile`: where compilation stops, and which blocks cannot be taken.

Compile blocks in place, `block.compile()`. What a step has to write down outside of the block,
such as what B leaves for W, runs between two compiled pieces, so a block is not one whole graph
(`fullgraph=True` fails), and equal blocks share their pieces.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import nn

_Function = TypeVar("_Function", bound=Callable[..., object])


def uncompiled(function: _Function) -> _Function:
    """A decorator: compiled code stops before the function and goes on after it."""
    return torch.compiler.disable(function)


def require_unwrapped(blocks: Sequence[nn.Module]) -> None:
    """Refuse what `torch.compile(block)` returns: it hides the block and renames its parameters.

    Raises:
        ValueError: naming the first such block.
    """
    for index, block in enumerate(blocks):
        if "_orig_mod" in dict(block.named_children()):
            raise ValueError(
                f"block {index} is the wrapper that torch.compile returns, which renames "
                "parameters; compile the block in place instead: block.compile()"
            )

"""Compiled blocks are split like others, share what was compiled, and wrapped ones are refused."""

from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.distributed.fsdp import MixedPrecisionPolicy

from support.features import MIDDLE, H, Masked, Residual, compiled, loss_sum, stack
from support.ranks import run_ranks
from zeropp.build import pipeline
from zeropp.plan import Plan
from zeropp.runtime.boundary import Boundaries

TOKENS = torch.arange(40).view(8, 5) % 11


def pieces_of(layers: int) -> int:
    """How often one step of a model of so many equal blocks calls the compiler."""
    torch.compiler.reset()
    pieces = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        pieces.append(graph)
        return graph

    blocks = [nn.Embedding(11, H), *(Residual() for _ in range(layers)), nn.Linear(H, 11)]
    for block in blocks:
        block.compile(backend=backend)
    pipe = pipeline(blocks, loss_sum, Plan(1, 2, 4))
    for _ in range(2):
        pipe.step((TOKENS, TOKENS))
    pipe.close()
    return len(pieces)


def pieces() -> list[int]:
    return [pieces_of(layers) for layers in (2, 12)]


def test_equal_blocks_share_what_was_compiled() -> None:
    (found,) = run_ranks(1, pieces)
    few, many = found
    assert 0 < few == many


def gradients_of(compiles: bool) -> tuple[int, int]:
    """How many parameters get their gradient in B, and how many in W."""
    blocks = compiled(stack(Residual)) if compiles else stack(Residual)
    pipe = pipeline(blocks, loss_sum, Plan(1, 1, 1))
    (stage,) = pipe.stages
    (logits,) = stage.forward(0, (TOKENS[:1],), {}, torch.ones(()))
    stage.backward(0, (torch.ones_like(logits),), fused=False)
    in_backward = len(stage.parameters.gradients.take())
    stage.weight(0)
    in_weight = len(stage.parameters.gradients.take())
    pipe.close()
    return in_backward, in_weight


def counted_gradients() -> list[tuple[int, int]]:
    return [gradients_of(compiles) for compiles in (False, True)]


def test_weight_gradients_of_compiled_blocks_come_in_w() -> None:
    norms, layers = MIDDLE * 2, MIDDLE * 4 + 3
    assert run_ranks(1, counted_gradients) == [[(norms, layers)] * 2]


def refused() -> str:
    blocks = stack(Masked)
    wrapped = [torch.compile(block, backend="aot_eager") for block in blocks]
    with pytest.raises(ValueError, match="wrapper") as error:
        pipeline(wrapped, loss_sum, Plan(1, 2, 4))
    return str(error.value)


def test_wrapped_blocks_are_refused() -> None:
    (message,) = run_ranks(1, refused)
    assert message == (
        "block 0 is the wrapper that torch.compile returns, which renames parameters; "
        "compile the block in place instead: block.compile()"
    )


class Inner(nn.Module):
    """A block of which a part is wrapped."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.compile(Residual(), backend="inductor")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


def inner_shapes() -> list[tuple[int, ...]]:
    blocks = stack(Inner)
    stages = [range(4), range(4, len(blocks))]
    specs = Boundaries(blocks, stages, MixedPrecisionPolicy(), torch.device("cpu")).of(
        (TOKENS[:2],), {}
    )
    return [spec.shape for (spec,) in specs]


def test_shapes_are_found_without_compiling() -> None:
    torch.compiler.reset()
    counters.clear()
    assert inner_shapes() == [(2, 5), (2, 5, H)]
    assert counters["stats"]["unique_graphs"] == 0

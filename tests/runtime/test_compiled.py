"""Compiled blocks are split like others, share what was compiled, and wrapped ones are refused."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.distributed.fsdp import MixedPrecisionPolicy

from support import features
from support.exactness import Case, errors_of
from support.features import MIDDLE, Feature, H, Masked, Residual, compiled, loss_sum, stack
from support.ranks import run_ranks
from zeropp.build import pipeline
from zeropp.plan import Plan
from zeropp.runtime.boundary import Boundaries
from zeropp.runtime.grid import make_mesh

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
    stage.forward(0, (TOKENS[:1],), {}, torch.ones(()))  # not compiled yet
    stage.drop()
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


def scripted() -> list[str]:
    pair = torch.jit.script(nn.Linear(H, H)), torch.jit.trace(nn.Linear(H, H), torch.ones(1, H))
    lines = []
    for module in pair:
        blocks = stack(lambda module=module: nn.Sequential(module, nn.Tanh()))  # type: ignore[misc]
        with pytest.raises(ValueError, match=r"torch\.jit") as error:
            pipeline(blocks, loss_sum, Plan(1, 2, 4))
        lines.append(str(error.value))
    return lines


def test_scripted_modules_are_refused() -> None:
    (lines,) = run_ranks(1, scripted)
    wanted = (
        "block 1 is of torch.jit, or holds what is, which cannot be cut or sharded; pass the "
        "module that was scripted or traced"
    )
    assert lines == [wanted] * 2


def whole_graphs(recompute: str, backend: str) -> tuple[dict[str, float], int]:
    """Errors of a model whose blocks stop nowhere, and how often the compiler was called."""
    torch.compiler.reset()
    counters.clear()

    def blocks() -> list[nn.Module]:
        made = stack(Residual)
        for block in made[1:]:  # a table's input is no floating-point number, so it stops
            block.compile(backend=backend, fullgraph=True)
        return made

    case = Case(Feature("whole", blocks, compiled=True), Plan(1, 2, 6, recompute=recompute))
    errors = errors_of(case, make_mesh(1, 1, 1))
    return errors, counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("recompute", ["none", pytest.param("full", marks=pytest.mark.nightly)])
def test_compiled_blocks_are_split_without_a_break(recompute: str) -> None:
    backend = "inductor" if recompute == "none" else "aot_eager"
    ((errors, graphs),) = run_ranks(1, whole_graphs, recompute, backend, timeout=250)
    assert max(errors.values()) < 1e-5
    assert graphs == 2  # of the equal blocks and of the last


class Wandering(nn.Module):
    """Calls its layers once, twice or not at all, as what it is given says."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(H, H), nn.Linear(H, H)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        chosen = int(x.detach().abs().sum() * 1e3) % 4
        for layer in ((self.first,), (self.second, self.first), (self.first,) * 2, ())[chosen]:
            x = x + torch.tanh(layer(x))
        return x


FEATURES = {feature.name: feature for feature in (*features.FEATURES, *features.KINDS)}
ODD = ["changes in place what is not contiguous", "gradients inside a block"]
ODD += ["autocast inside a block", "buffers that change", "weights made in the forward"]
ODD += ["vectors, keyword calls", "lengths differ, small last micro-batch", "layer used twice"]


def odd_errors(recompute: str) -> dict[str, float]:
    """The worst of every odd model, compiled; the first forward of a shape is not."""
    chosen = [f for name, f in FEATURES.items() if any(name.startswith(odd) for odd in ODD)]
    worst, mesh = {}, make_mesh(1, 1, 1)
    for feature in (*chosen, Feature("wandering", partial(stack, Wandering))):
        torch.compiler.reset()
        case = replace(feature, blocks=partial(_compiled, feature), compiled=True)
        errors = errors_of(Case(case, Plan(1, 2, 6, recompute=recompute)), mesh)
        worst[feature.name] = max(errors.values())
    return worst


def _compiled(feature: Feature) -> list[nn.Module]:
    return compiled(feature.blocks())


@pytest.mark.parametrize("recompute", ["none", pytest.param("full", marks=pytest.mark.nightly)])
def test_odd_models_are_exact_when_compiled(recompute: str) -> None:
    (worst,) = run_ranks(1, odd_errors, recompute, timeout=280)
    assert len(worst) >= 9
    assert max(worst.values()) < 1e-5, worst


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

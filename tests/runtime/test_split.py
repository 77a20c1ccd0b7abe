"""The B/W split is exact for every kind of layer and model that users have."""

import copy
from collections.abc import Callable
from types import MethodType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support.features import (
    Adapter,
    Conv1D,
    Custom,
    H,
    HalfFrozen,
    Residual,
    Twice,
    Wide,
    loss_sum,
)
from support.parity import relative_error, whole
from support.ranks import run_ranks
from zeropp.build import pipeline
from zeropp.plan import Plan
from zeropp.runtime.split_rules import split_report


class Doubled(nn.Module):
    """A layer given another forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(H, H)
        self.layer.forward = MethodType(_doubled, self.layer)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x))


def _doubled(layer: nn.Linear, x: Tensor) -> Tensor:
    return 2 * F.linear(x, layer.weight, layer.bias)


BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "bias": Residual,
    "no bias": lambda: Residual(bias=False),
    "shared and twice": Twice,
    "adapter": Adapter,
    "half frozen": HalfFrozen,
    "custom function": Custom,
    "Conv1D": Conv1D,
    "subclass": lambda: Wide(H, H),
    "own forward": Doubled,
}


def model(middle: Callable[[], nn.Module], tokens: bool) -> list[nn.Module]:
    torch.manual_seed(3)
    first = nn.Embedding(11, H) if tokens else nn.Linear(H, H)
    return [first, middle(), middle(), nn.Linear(H, 11)]


def errors_of(
    middle: Callable[[], nn.Module], tokens: bool, recompute: str, schedule: str, D: int
) -> dict[str, float]:
    """Relative errors over two stages per rank, for this rank's parameters."""
    blocks = model(middle, tokens)
    plain = copy.deepcopy(blocks)
    generator = torch.Generator().manual_seed(0)
    samples = 4 * D
    inputs = torch.randn(samples, 5, H, generator=generator)
    if tokens:
        inputs = torch.randint(11, (samples, 5), generator=generator)
    targets = torch.randint(11, (samples, 5), generator=generator)
    x = inputs
    for block in plain:
        x = block(x)
    (loss_sum(x, targets) / targets.numel()).backward()
    plan = Plan(1, 2, 4, schedule, dp_shard=D, max_resident=1, recompute=recompute)
    pipe = pipeline(blocks, loss_sum, plan)
    part = torch.distributed.get_rank()
    pipe.step((inputs.chunk(D)[part], targets.chunk(D)[part]))
    wanted = {f"{i}.{n}": p.grad for i, b in enumerate(plain) for n, p in b.named_parameters()}
    errors = {}
    for name, parameter in pipe.named_parameters():
        if wanted[name] is None:
            assert parameter.grad is None
        else:
            errors[name] = relative_error(whole(parameter.grad), wanted[name])
    pipe.close()
    return errors


def run_all(D: int) -> dict[str, dict[str, float]]:
    return {
        f"{name}, tokens={tokens}, {recompute}, {schedule}": errors_of(
            BLOCKS[name], tokens, recompute, schedule, D
        )
        for name in BLOCKS
        for tokens in (True, False)
        for recompute in ("none", "selective", "full")
        for schedule in ("zeropp", "breadth-first")
    }


@pytest.mark.parametrize("D", [1, 2])
def test_every_kind_of_layer_is_exact(D: int) -> None:
    for results in run_ranks(D, run_all, D, timeout=200):
        assert len(results) == len(BLOCKS) * 12
        too_far = {
            (case, name): error
            for case, errors in results.items()
            for name, error in errors.items()
            if not error <= 1e-5
        }
        assert too_far == {}


def dropout_gradients() -> list[Tensor]:
    gradients = []
    for recompute in ("none", "full", "selective"):
        pipe = pipeline(
            model(lambda: Residual(dropout=0.5), tokens=True),
            loss_sum,
            Plan(1, 2, 4, "zeropp", recompute=recompute),
        )
        torch.manual_seed(5)
        tokens = torch.arange(44).view(4, 11) % 11
        pipe.step((tokens, tokens))
        gradients.append(torch.cat([p.grad.flatten() for p in pipe.parameters()]))
    return gradients


def test_dropout_draws_alike_when_recomputed() -> None:
    ((plain, full, selective),) = run_ranks(1, dropout_gradients)
    assert plain.norm() > 0
    torch.testing.assert_close(full, plain)
    torch.testing.assert_close(selective, plain)


class Counted(Residual):
    """Counts its forwards."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return super().forward(x)


def count_runs() -> dict[str, int]:
    """Per way of recomputing, how often the two counted blocks run in one step of 4."""
    tokens = torch.arange(44).view(4, 11) % 11
    found = {}
    for recompute in ("none", "selective", "full"):
        plan = Plan(1, 2, 4, "zeropp", recompute=recompute)
        pipe = pipeline(model(Counted, tokens=True), loss_sum, plan)
        pipe.step((tokens, tokens))
        blocks = [b for module in pipe.modules for b in module.blocks if isinstance(b, Counted)]
        found[recompute] = sum(block.runs for block in blocks)
    return found


def test_a_block_is_run_again_once_for_each_microbatch() -> None:
    assert run_ranks(1, count_runs) == [{"none": 8, "selective": 16, "full": 16}]


def test_the_report_says_when_each_gradient_is_made() -> None:
    blocks = nn.Sequential(nn.Embedding(5, H), Residual(), Adapter(), Wide(H, H), Doubled())
    when = {entry.name: entry.when for entry in split_report(blocks)}
    assert when["0.weight"] == "W"
    assert when["1.up.weight"] == when["1.up.bias"] == "W"
    assert when["1.norm.weight"] == "B"
    assert when["2.base.weight"] == "never"
    assert when["2.a.weight"] == "W"
    assert when["3.weight"] == when["4.layer.weight"] == "B"

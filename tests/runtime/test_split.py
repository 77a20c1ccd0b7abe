"""What the B/W split runs again, and when it makes each gradient."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from support.features import Adapter, Doubled, H, Residual, Wide, loss_sum, stack
from support.ranks import run_ranks
from zeropp.build import pipeline
from zeropp.plan import Plan
from zeropp.runtime.report import split_report


def model(middle: Callable[[], nn.Module]) -> list[nn.Module]:
    torch.manual_seed(3)
    return stack(middle, middles=2)


def dropout_gradients() -> list[Tensor]:
    gradients = []
    for recompute in ("none", "full", "selective"):
        pipe = pipeline(
            model(lambda: Residual(dropout=0.5)),
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
        pipe = pipeline(model(Counted), loss_sum, plan)
        pipe.step((tokens, tokens))
        blocks = [b for module in pipe.modules for b in module.blocks if isinstance(b, Counted)]
        found[recompute] = sum(block.runs for block in blocks)
    return found


def test_a_block_is_run_again_once_for_each_microbatch() -> None:
    tried = 2  # for selective, each of the two blocks is tried once
    assert run_ranks(1, count_runs) == [{"none": 8, "selective": 16 + tried, "full": 16}]


def test_the_report_says_when_each_gradient_is_made() -> None:
    blocks = nn.Sequential(nn.Embedding(5, H), Residual(), Adapter(), Wide(H, H), Doubled())
    when = {entry.name: entry.when for entry in split_report(blocks)}
    assert when["0.weight"] == "W"
    assert when["1.up.weight"] == when["1.up.bias"] == "W"
    assert when["1.norm.weight"] == "B"
    assert when["2.base.weight"] == "never"
    assert when["2.a.weight"] == "W"
    assert when["3.weight"] == when["4.layer.weight"] == "B"

"""What the B/W split runs again, and when it makes each gradient."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from support.exactness import Plain, gradient_errors
from support.features import (
    Adapter,
    Batched,
    Doubled,
    Experts,
    Grouped,
    H,
    Residual,
    Wide,
    even,
    loss_sum,
    stack,
)
from support.ranks import run_ranks
from zeropp.build import pipeline
from zeropp.plan import Plan
from zeropp.runtime.report import split_report
from zeropp.runtime.split_rules import SplitRule


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
        numbered = [block for module in pipe.modules for _, block in module.numbered]
        blocks = [block for block in numbered if isinstance(block, Counted)]
        found[recompute] = sum(block.runs for block in blocks)
    return found


def test_a_block_is_run_again_once_for_each_microbatch() -> None:
    tried = 2  # for selective, each of the two blocks is tried once
    assert run_ranks(1, count_runs) == [{"none": 8, "selective": 16 + tried, "full": 16}]


class Scaled(nn.Module):
    """A layer of one's own with a rule of its own, one part of which may be wrong."""

    def __init__(self, wrong: str | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(H))
        parts: dict[str, Any] = {
            "forward": lambda x, weight, bias: x * weight,
            "input_gradient": lambda gy, weight: gy * weight,
            "add_weight_gradient": lambda sums, weight, x, gy: sums.add(
                weight, (x * gy).flatten(0, -2).sum(0)
            ),
        }
        mistakes: dict[str, Any] = {
            "forward": lambda x, weight, bias: 2 * x * weight,
            "input_gradient": lambda gy, weight: gy * weight * 1.001,
            "add_weight_gradient": lambda sums, weight, x, gy: sums.add(
                weight, (x * gy).flatten(0, -2).mean(0)
            ),
        }
        self.split_rule = SplitRule(**parts | {k: v for k, v in mistakes.items() if k == wrong})

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


def own_rules() -> tuple[float, list[str]]:
    """The error of a right rule, and what is said of each that is wrong."""
    torch.manual_seed(1)
    blocks = [*stack(Residual)[:-1], Scaled(), stack(Residual)[-1]]
    plain = Plain(copy.deepcopy(blocks))
    batch = even(2, torch.Generator().manual_seed(0))
    plain.losses(batch, {})[0].backward()
    pipe = pipeline(blocks, loss_sum, Plan(1, 2, 2))
    pipe.step(batch)
    said = []
    for part in ("forward", "input_gradient", "add_weight_gradient"):
        blocks = [*stack(Residual)[:-1], Scaled(part), stack(Residual)[-1]]
        with pytest.raises(ValueError, match="split_rule") as raised:
            pipeline(blocks, loss_sum, Plan(1, 2, 2)).step(batch)
        said.append(str(raised.value))
    return max(gradient_errors(plain, pipe).values()), said


def test_a_rule_of_ones_own_is_tried_once() -> None:
    ((error, said),) = run_ranks(1, own_rules)
    assert error < 1e-5
    assert said == [
        f"7: its split_rule's {part} gives other numbers than the layer by itself"
        for part in ("forward", "input_gradient", "add_weight_gradient")
    ]


def test_the_report_says_when_each_gradient_is_made() -> None:
    layers = nn.Embedding(5, H), Residual(), Adapter(), Wide(H, H), Doubled(), Experts()
    blocks = nn.Sequential(*layers)
    when = {entry.name: entry.when for entry in split_report(blocks)}
    assert when["0.weight"] == "W"
    assert when["1.up.weight"] == when["1.up.bias"] == "W"
    assert when["1.norm.weight"] == "B"
    assert when["2.base.weight"] == "never"
    assert when["2.a.weight"] == "W"
    assert when["3.weight"] == when["4.layer.weight"] == "B"
    assert when["5.up"] == when["5.down"] == "W"


def when_made(middle: Callable[[], nn.Module]) -> tuple[set[str], set[str]]:
    """The parameters of two such blocks that have a gradient after B, and those after W alone."""
    torch.manual_seed(3)
    pipe = pipeline(stack(middle, middles=2), loss_sum, Plan(1, 1, 1))
    ((inputs, targets),) = even(1, torch.Generator().manual_seed(0))
    (stage,) = pipe.stages
    one = torch.ones(())
    stage.forward(0, (inputs,), {}, one, lambda outputs: (loss_sum(*outputs, targets),))
    made = []
    for run in (lambda: stage.backward(0, (one,), fused=False), lambda: stage.weight(0)):
        run()
        held = stage.parameters.gradients.held
        made.append({name for name, p in pipe.named_parameters() if held(p) is not None})
    pipe.close()
    return made[0], made[1] - made[0]


@pytest.mark.parametrize("kind", [Experts, Grouped, Batched])
def test_gradients_of_experts_in_one_parameter_are_made_in_w(kind: type[Experts]) -> None:
    (((early, late),)) = run_ranks(1, when_made, kind)
    assert early == set()
    assert {f"{block}.{name}" for block in (1, 2) for name in ("router", "up", "down")} <= late

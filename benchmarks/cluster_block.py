"""A block that sleeps for compute, with real parameters, activations, gradients and messages.

                    copies              first row of the weight
    x  [rows, h]  ---------->  [COPIES, rows, h]  ------------>  y  [rows, h]
    the message                 the activation, held from F until W

The sizes are in the proportion of a transformer layer with h = 4096 and micro-batches of 2048
tokens: an activation of 17 messages (34sbh bytes of 2sbh), parameters of 24 (24h^2 bytes). Both
runtimes run the same blocks, which take the same times; ours splits the backward.
"""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cluster_cases import Times
from zeropp.measure.rehearsal import rest_until
from zeropp.runtime.split_rules import GradientBuffers

WIDTH, ROWS, COPIES = 440, 18, 16
PARAMETER_BYTES = 4 * WIDTH**2
MESSAGE_BYTES = 4 * WIDTH * ROWS


@dataclass(frozen=True)
class EmulatedRule:
    """y = x * (first row of the weight), for the last two dimensions of x."""

    times: Times

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """F."""
        end = time.perf_counter() + self.times.forward
        y = x[0] * weight[0]
        if not x.is_meta:
            rest_until(end)
        return y

    def input_gradient(self, grad_output: Tensor, weight: Tensor) -> Tensor:
        """B."""
        end = time.perf_counter() + self.times.backward
        gradient = (grad_output * weight[0]).expand(COPIES, -1, -1)
        rest_until(end)
        return gradient

    def weight_gradient(self, x: Tensor, grad_output: Tensor) -> Tensor:
        """As large as the weight, without its memory: every row is the first."""
        return (x[0] * grad_output).sum(0).expand(WIDTH, WIDTH)

    def add_weight_gradient(
        self, gradients: GradientBuffers, weight: nn.Parameter, x: Tensor, grad_output: Tensor
    ) -> None:
        """W, added in place as a matrix product's is."""
        end = time.perf_counter() + self.times.weight
        gradients.add(weight, self.weight_gradient(x, grad_output))
        rest_until(end)


class _Whole(torch.autograd.Function):
    """The layer where nothing splits it: its backward is B and W."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, rule: EmulatedRule) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.rule = rule
        return rule.forward(x, weight, None)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        rule: EmulatedRule = ctx.rule
        grad_input = rule.input_gradient(grad_output, weight)
        end = time.perf_counter() + rule.times.weight
        # a matrix product would have made a new tensor
        grad_weight = rule.weight_gradient(x, grad_output).contiguous()
        rest_until(end)
        return grad_input, grad_weight, None


class _Layer(nn.Module):
    """The parameters of a block."""

    def __init__(self, times: Times) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH, WIDTH))
        self.split_rule = EmulatedRule(times)

    def forward(self, x: Tensor) -> Tensor:
        """[COPIES, rows, h] -> [rows, h]."""
        return _Whole.apply(x, self.weight, self.split_rule)


class _Entry(torch.autograd.Function):
    """The activation that a block makes of its input.

    The offset's gradient makes the first block's B run as any other's.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, offset: Tensor) -> Tensor:
        return (x + offset).expand(COPIES, -1, -1).contiguous()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor]:
        return grad_output[0], grad_output[0].sum(0)


class EmulatedBlock(nn.Module):
    """A block that takes these times for F, B and W of a micro-batch."""

    def __init__(self, times: Times) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(WIDTH))
        self.layer = _Layer(times)

    def forward(self, x: Tensor) -> Tensor:
        """[rows, WIDTH] -> the same."""
        return self.layer(_Entry.apply(x, self.offset))


def emulated_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Anything with a gradient."""
    return (outputs - targets).sum()

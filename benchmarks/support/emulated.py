"""A block that sleeps as long as its F, B and W would take, the same in either runtime.

    x [rows, width]  --Entry-->  a [copies, rows, width]  --layer, Exit-->  a[0] + row of the weight
    the message                  the activation, held from F until W

    F    begins before Entry, ends after Exit
    B    begins in Exit's backward, ends in Entry's
    W    the backward of the weight's own path: autograd's, or, where layers are split, the rule's

Each span ends a fixed time after it began, the block's own few operations included. A W inside a B,
as fused backwards have it, postpones the B's end.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zeropp.measure.rehearsal import rest_until
from zeropp.runtime.split_rules import GradientBuffers


@dataclass
class _Span:
    """Seconds that a block computes for, when they end, and how often they did."""

    seconds: float
    end: float = 0.0
    count: int = 0

    def begin(self) -> None:
        self.end = time.perf_counter() + self.seconds

    def rest(self) -> None:
        rest_until(self.end)
        self.count += 1


class Spans(NamedTuple):
    """A block's F, B and W."""

    forward: _Span
    backward: _Span
    weight: _Span

    @contextmanager
    def in_weight(self) -> Iterator[None]:
        """W of one micro-batch, whatever B it is part of."""
        self.weight.begin()
        yield
        self.weight.rest()
        self.backward.end += self.weight.seconds


class _Entry(torch.autograd.Function):
    """Copies of x plus an offset, if any; its backward is the last of a block's B."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, offset: Tensor | None, copies: int, spans: Spans) -> Tensor:
        ctx.spans, ctx.offset = spans, offset is not None
        return (x if offset is None else x + offset).repeat(copies, 1, 1)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        total = grad_output[0].sum(0) if ctx.offset else None
        ctx.spans.backward.rest()
        return grad_output[0], total, None, None


class _Sum(torch.autograd.Function):
    """The first copy plus the weight's part; no gradient of all copies is stored."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, part: Tensor) -> Tensor:
        ctx.shape = a.shape
        return a[0] + part

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor]:
        return grad_output.expand(ctx.shape), grad_output


class _Exit(torch.autograd.Function):
    """y; its backward is the first of a block's B."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, spans: Spans) -> Tensor:
        ctx.spans = spans
        return y.clone()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        ctx.spans.backward.begin()
        return grad_output, None


class _Part(torch.autograd.Function):
    """The weight's first row for every row; its backward is W, off the path of input gradients."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, a: Tensor, spans: Spans) -> Tensor:
        ctx.save_for_backward(a)
        ctx.spans = spans
        return weight[0].expand_as(a[0])

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        with ctx.spans.in_weight():  # a new tensor, as a matrix product makes one
            gradient = _weight_gradient(*ctx.saved_tensors, grad_output).contiguous()
        return gradient, None, None


def _weight_gradient(a: Tensor, grad_output: Tensor) -> Tensor:
    """[width, width], every row the same one in memory."""
    return (a[0] * grad_output).sum(0).expand(a.shape[-1], -1)


@dataclass(frozen=True)
class _Rule:
    """The same layer for a runtime that splits layers."""

    spans: Spans
    copies: int

    def forward(self, a: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return a[0] + weight[0]

    def input_gradient(self, grad_output: Tensor, weight: Tensor) -> Tensor:
        return grad_output.expand(self.copies, -1, -1)

    def add_weight_gradient(
        self, gradients: GradientBuffers, weight: nn.Parameter, a: Tensor, grad_output: Tensor
    ) -> None:
        with self.spans.in_weight():  # in place, as a matrix product is added
            gradients.add(weight, _weight_gradient(a, grad_output))


class _Layer(nn.Module):
    def __init__(self, width: int, rule: _Rule) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, width))
        self.split_rule = rule
        self.split_untried = False  # its gradients only last as long as real ones

    def forward(self, a: Tensor) -> Tensor:
        return _Sum.apply(a, _Part.apply(self.weight, a.detach(), self.split_rule.spans))


class EmulatedBlock(nn.Module):
    """A block that takes these times for F, B and W of a micro-batch.

    The model's first input wants no gradient; an offset to it stands for a real first stage's upper
    layers, which make it run input gradients all the same. Messages have rows of `width`, and the
    weight is [width, width]; the activation is `copies` times as large as a message.
    """

    def __init__(
        self, seconds: tuple[float, float, float], first: bool, width: int = 8, copies: int = 1
    ) -> None:
        super().__init__()
        self.spans = Spans(*map(_Span, seconds))
        self.offset = nn.Parameter(torch.zeros(width)) if first else None
        self.layer = _Layer(width, _Rule(self.spans, copies))

    def forward(self, x: Tensor) -> Tensor:
        """[rows, width] -> the same."""
        self.spans.forward.begin()
        a = _Entry.apply(x, self.offset, self.layer.split_rule.copies, self.spans)
        y: Tensor = _Exit.apply(self.layer(a), self.spans)
        if not x.is_meta:
            self.spans.forward.rest()
        return y

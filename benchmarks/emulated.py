"""A stage that sleeps as long as its F, B and W would take, the same in either runtime.

    y = Entry(x) + spread(weight);  returned as Exit(y)

    F    begins before Entry, ends after Exit
    B    begins in Exit's backward, ends in Entry's
    W    the spread weight's backward: autograd's, or, where layers are split, the rule's

Each span ends a fixed time after it began, so the stage's own few operations are part of it. Fused
backwards run W before or after Entry's; a W inside a B postpones the B's end.
"""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zeropp.measure.rehearsal import rest_until
from zeropp.runtime.split_rules import GradientBuffers

WIDTH = 8


class Span:
    """A stretch of time that a stage computes for, and how often it did.

    Attributes:
        seconds: how long it takes.
        ended: how often it has come to its end.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.ended, self._end = seconds, 0, 0.0

    def begin(self) -> None:
        """Start the clock."""
        self._end = time.perf_counter() + self.seconds

    def postpone(self, seconds: float) -> None:
        """End later by what another span took meanwhile."""
        self._end += seconds

    def rest(self) -> None:
        """Take what is left."""
        rest_until(self._end)
        self.ended += 1


@dataclass(frozen=True)
class Spans:
    """A stage's F, B and W."""

    forward: Span
    backward: Span
    weight: Span

    def weight_gradient(self, grad_output: Tensor) -> Tensor:
        """W of one micro-batch."""
        self.weight.begin()
        gradient = grad_output.sum(0)
        self.weight.rest()
        self.backward.postpone(self.weight.seconds)
        return gradient


class _Entry(torch.autograd.Function):
    """x plus an offset, if any; its backward is the last of a stage's B."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, offset: Tensor | None, spans: Spans) -> Tensor:
        ctx.spans, ctx.offset = spans, offset is not None
        return x.clone() if offset is None else x + offset

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor | None, None]:
        total = grad_output.sum(0) if ctx.offset else None
        ctx.spans.backward.rest()
        return grad_output, total, None


class _Exit(torch.autograd.Function):
    """y; its backward is the first of a stage's B."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, spans: Spans) -> Tensor:
        ctx.spans = spans
        return y.clone()

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None]:
        ctx.spans.backward.begin()
        return grad_output, None


class _Spread(torch.autograd.Function):
    """The weight for every sample; its backward is W, on a path that no input gradient takes."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, like: Tensor, spans: Spans) -> Tensor:
        ctx.spans = spans
        return weight.expand_as(like)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        return ctx.spans.weight_gradient(grad_output), None, None


@dataclass(frozen=True)
class _Rule:
    """The same layer for a runtime that splits layers."""

    spans: Spans

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return x + weight

    def input_gradient(self, grad_output: Tensor, weight: Tensor) -> Tensor:
        return grad_output

    def add_weight_gradient(
        self, gradients: GradientBuffers, weight: nn.Parameter, x: Tensor, grad_output: Tensor
    ) -> None:
        gradients.add(weight, self.spans.weight_gradient(grad_output))


class _Layer(nn.Module):
    """y = x + weight."""

    def __init__(self, spans: Spans) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(WIDTH))
        self.spans, self.split_rule = spans, _Rule(spans)

    def forward(self, x: Tensor) -> Tensor:
        return x + _Spread.apply(self.weight, x.detach(), self.spans)


class EmulatedStage(nn.Module):
    """A stage that takes these times for F, B and W of a micro-batch, in seconds.

    The first stage's input wants no gradient. An offset to it stands for what makes a real first
    stage run input gradients all the same: its layers but the lowest.
    """

    def __init__(self, forward_s: float, backward_s: float, weight_s: float, first: bool) -> None:
        super().__init__()
        self._seconds = forward_s, backward_s, weight_s
        self.spans = Spans(*map(Span, self._seconds))
        self.offset = nn.Parameter(torch.zeros(WIDTH)) if first else None
        self.layer = _Layer(self.spans)

    def forward(self, x: Tensor) -> Tensor:
        """[samples, WIDTH] -> the same."""
        self.spans.forward.begin()
        y: Tensor = _Exit.apply(self.layer(_Entry.apply(x, self.offset, self.spans)), self.spans)
        if not x.is_meta:
            self.spans.forward.rest()
        return y

    def hurry(self, hurried: bool) -> None:
        """Take no time at all, or again the stage's own."""
        for span, seconds in zip(self._each(), self._seconds, strict=True):
            span.seconds = 0.0 if hurried else seconds

    def take_counts(self) -> tuple[int, ...]:
        """How many F, B and W have ended since the last time."""
        counts = tuple(span.ended for span in self._each())
        for span in self._each():
            span.ended = 0
        return counts

    def _each(self) -> tuple[Span, Span, Span]:
        return self.spans.forward, self.spans.backward, self.spans.weight


def emulated_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Anything with a gradient."""
    return (outputs - targets).pow(2).sum()

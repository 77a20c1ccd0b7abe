"""What one micro-batch's backward on one stage leaves, and who writes it down."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from zeropp.runtime.gradients import GradientBuffers
from zeropp.runtime.split_rules import SplitRule


class Deferred(NamedTuple):
    """What one layer's W needs."""

    rule: SplitRule
    weight: nn.Parameter
    bias: nn.Parameter | None
    x: Tensor
    grad_output: Tensor


class Tape:
    """What B of one micro-batch on one stage left for W.

    Args:
        gradients: where W adds to.
        seed: scalar, the gradient of the loss: 1 / tokens of the whole batch.

    Attributes:
        fused: run W at once, inside the backward (a BW).
    """

    def __init__(self, gradients: GradientBuffers, seed: Tensor) -> None:
        self.fused = False
        self.seed = seed
        self._gradients = gradients
        self._deferred: list[Deferred] = []

    def record(self, deferred: Deferred) -> None:
        """Keep one layer's work for W, or do it now in a fused backward."""
        if self.fused:
            self._apply(deferred)
        else:
            self._deferred.append(deferred)

    def run(self) -> None:
        """W: add every weight gradient to its buffer, freeing what it needed as it goes."""
        self._deferred.reverse()
        with torch.no_grad():  # x is part of the forward's graph
            while self._deferred:
                self._apply(self._deferred.pop())

    def _apply(self, deferred: Deferred) -> None:
        rule, weight, bias, x, grad_output = deferred
        rule.add_weight_gradient(self._gradients, weight, x, grad_output)
        if bias is not None and bias.requires_grad:
            self._gradients.add(bias, grad_output.flatten(0, -2).sum(0))


class Recorder:
    """One stage's notebook while its blocks run.

    Attributes:
        tape: of the micro-batch whose forward is running now; None outside of training.
    """

    def __init__(self) -> None:
        self.tape: Tape | None = None
        self._counts = False
        self._losses: list[Tensor] = []

    @contextmanager
    def forward(self, tape: Tape | None) -> Iterator[None]:
        """Forwards inside write to `tape`, and their auxiliary losses count."""
        self.tape, self._counts = tape, True
        try:
            yield
        finally:
            self.tape, self._counts = None, False

    @contextmanager
    def backward(self, tape: Tape) -> Iterator[None]:
        """Forwards inside, which checkpointing runs again, write to `tape`."""
        self.tape = tape
        try:
            yield
        finally:
            self.tape = None

    def note(self, loss: Tensor) -> None:
        """Count an auxiliary loss, once for each micro-batch."""
        if self._counts:
            self._losses.append(loss.detach().float())

    def take_losses(self) -> list[Tensor]:
        """The auxiliary losses noted since the last time."""
        losses, self._losses = self._losses, []
        return losses

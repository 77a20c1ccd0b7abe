"""The B/W split: a linear layer's backward returns its input gradient and leaves the rest for W.

                 forward            B                          W
    x  ------->  y = x A^T + c     gx = gy A                  gA += gy^T x,  gc += sum(gy)
                 saves x           leaves (x, gy) on a tape   frees them

Everything else (norms, embeddings, other modules) gets its gradient in B, by autograd. B frees
every saved tensor but x and gy, so between B and W a micro-batch holds only what W needs; this is
the split of zero-bubble pipeline parallelism (arXiv 2401.10241, section 3) done in the operators
instead of by walking the autograd graph a second time.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zeropp.runtime.gradients import GradientBuffers


class _Deferred(NamedTuple):
    """What one linear layer's W needs."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    x: Tensor
    grad_output: Tensor


class Tape:
    """What B of one micro-batch on one stage left for W.

    Attributes:
        fused: run W at once, inside the backward (a BW).
    """

    def __init__(self, gradients: GradientBuffers) -> None:
        self.fused = False
        self._gradients = gradients
        self._deferred: list[_Deferred] = []

    def record(self, deferred: _Deferred) -> None:
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

    def _apply(self, deferred: _Deferred) -> None:
        grad = deferred.grad_output.flatten(0, -2)
        self._gradients.add_product(deferred.weight, grad.t(), deferred.x.flatten(0, -2))
        if deferred.bias is not None and deferred.bias.requires_grad:
            self._gradients.add(deferred.bias, grad.sum(0))


class Recorder:
    """Which tape the forward that is running now writes to; None outside of training."""

    tape: Tape | None = None


class _SplitLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: nn.Parameter, bias: nn.Parameter | None, tape: Tape
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.weight, ctx.bias, ctx.tape = weight, bias, tape
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, None, None, None]:
        (x,) = ctx.saved_tensors
        grad_input = grad_output @ ctx.weight if ctx.needs_input_grad[0] else None
        ctx.tape.record(_Deferred(ctx.weight, ctx.bias, x, grad_output))
        return grad_input, None, None, None


def split_linears(module: nn.Module, recorder: Recorder) -> None:
    """Make every `nn.Linear` with a trainable weight inside `module` leave its W on a tape.

    Subclasses of `nn.Linear` are left whole, since they may compute something else.
    """
    for layer in module.modules():
        if type(layer) is nn.Linear and layer.weight.requires_grad:
            layer.forward = partial(_forward, layer, recorder)  # type: ignore[method-assign]


def _forward(layer: nn.Linear, recorder: Recorder, x: Tensor) -> Tensor:
    if recorder.tape is None or not torch.is_grad_enabled():
        return F.linear(x, layer.weight, layer.bias)
    return _SplitLinear.apply(x, layer.weight, layer.bias, recorder.tape)

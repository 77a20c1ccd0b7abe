"""The B/W split: a layer's backward returns its input gradient and leaves the rest for W.

                 F                 B                          W
    x  ------->  y = x A^T + c     gx = gy A                  gA += gy^T x,  gc += sum(gy)
                 saves x           leaves (x, gy) on a tape   frees them

Everything else (norms, other modules, custom autograd functions) gets its gradient in B, by
autograd. B frees every saved tensor but x and gy, so between B and W a micro-batch holds only what
W needs; this is the split of zero-bubble pipeline parallelism (arXiv 2401.10241, section 3) done
in the operators instead of by walking the autograd graph a second time.

Blocks may be compiled, in place: `block.compile()`. Tapes are written between two compiled pieces,
so a block is not one whole graph (`fullgraph=True` fails), and equal blocks share their pieces.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from zeropp.runtime.split_rules import GradientBuffers, SplitRule, rule_of

_Function = TypeVar("_Function", bound=Callable[..., object])


def uncompiled(function: _Function) -> _Function:
    """A decorator: compiled code stops before the function and goes on after it."""
    return torch.compiler.disable(function)


class Deferred(NamedTuple):
    """What one layer's W needs."""

    rule: SplitRule
    weight: nn.Parameter
    bias: nn.Parameter | None
    x: Tensor
    grad_output: Tensor

    def add_to(self, gradients: GradientBuffers) -> None:
        """The layer's W."""
        self.rule.add_weight_gradient(gradients, self.weight, self.x, self.grad_output)
        if self.bias is not None and self.bias.requires_grad:
            gradients.add(self.bias, self.grad_output.flatten(0, -2).sum(0))


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
            deferred.add_to(self._gradients)
        else:
            self._deferred.append(deferred)

    def run(self) -> None:
        """W: add every weight gradient to its buffer, freeing what it needed as it goes."""
        self._deferred.reverse()
        with torch.no_grad():  # x is part of the forward's graph
            while self._deferred:
                self._deferred.pop().add_to(self._gradients)


class Recorder:
    """One stage's notebook while its blocks run.

    Attributes:
        tape: of the micro-batch whose forward is running now; None outside of training.
        losses: the auxiliary ones of forwards so far, scalars in fp32.
    """

    def __init__(self) -> None:
        self.tape: Tape | None = None
        self.losses: list[Tensor] = []
        self._counts = False

    @contextmanager
    def writing(self, tape: Tape | None, *, again: bool = False) -> Iterator[None]:
        """Forwards inside write to `tape`; in a backward, checkpointing runs them `again`."""
        self.tape, self._counts = tape, not again
        try:
            yield
        finally:
            self.tape, self._counts = None, False

    def note(self, loss: Tensor) -> Tensor | None:
        """Count an auxiliary loss, once for each micro-batch; its gradient, if it is trained."""
        if self._counts:
            self.losses.append(loss.detach().float())
        return None if self.tape is None else self.tape.seed


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        rule: SplitRule,
        tape: Tape,
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.weight, ctx.bias, ctx.rule, ctx.tape = weight, bias, rule, tape
        return rule.forward(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        (x,) = ctx.saved_tensors
        grad_input = None
        if ctx.needs_input_grad[0]:
            grad_input = ctx.rule.input_gradient(grad_output, ctx.weight)
        ctx.tape.record(Deferred(ctx.rule, ctx.weight, ctx.bias, x, grad_output))
        return grad_input, None, None, None, None


class SplitLayer(nn.Module):
    """What a split layer also is."""

    split_rule: SplitRule
    split_recorder: Recorder

    @uncompiled
    def forward(self, x: Tensor) -> Tensor:
        """The layer's own forward, whose backward is cut in two while a tape is there."""
        tape = self.split_recorder.tape
        if tape is None or not torch.is_grad_enabled():
            return super().forward(x)
        bias = getattr(self, "bias", None)
        return _Split.apply(x, self.weight, bias, self.split_rule, tape)


@cache
def _split_class(kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"Split{kind.__name__}", (SplitLayer, kind), {})


def split_layers(module: nn.Module, recorder: Recorder) -> None:
    """Make every layer inside `module` that a rule fits leave its W on a tape.

    As FSDP2 does, this changes the class of the layers, to a subclass of their own.
    """
    layer: Any
    for layer in module.modules():
        if (rule := rule_of(layer)) is not None:
            kind: Any = type(layer)
            if not issubclass(kind, SplitLayer):
                layer.__class__ = _split_class(kind)
            layer.split_rule, layer.split_recorder = rule, recorder

"""The B/W split: a layer's backward returns its input gradient and leaves the rest for W.

                 forward            B                          W
    x  ------->  y = x A^T + c     gx = gy A                  gA += gy^T x,  gc += sum(gy)
                 saves x           leaves (x, gy) on a tape   frees them

Everything else (norms, other modules, custom autograd functions) gets its gradient in B, by
autograd. B frees every saved tensor but x and gy, so between B and W a micro-batch holds only what
W needs; this is the split of zero-bubble pipeline parallelism (arXiv 2401.10241, section 3) done
in the operators instead of by walking the autograd graph a second time.
"""

from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from zeropp.runtime.compiled import uncompiled
from zeropp.runtime.recorder import Deferred, Recorder, Tape
from zeropp.runtime.split_rules import SplitRule, rule_of


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


def split_layers(module: nn.Module, recorder: Recorder) -> None:
    """Make every layer inside `module` that a rule fits leave its W on a tape.

    As FSDP2 does, this changes the class of the layers, to a subclass of their own.
    """
    for layer in module.modules():
        if (rule := rule_of(layer)) is not None:
            kind: Any = type(layer)
            if not issubclass(kind, SplitLayer):
                layer.__class__ = _split_class(kind)
            split = cast(SplitLayer, layer)
            split.split_rule, split.split_recorder = rule, recorder


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

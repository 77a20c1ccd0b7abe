"""The B/W split: a layer's backward returns its input gradient and leaves the rest for W.

                 F                 B                          W
    x  ------->  y = x A^T + c     gx = gy A                  gA += gy^T x,  gc += sum(gy)
                 saves x           leaves (x, gy) on a tape   frees them

Everything else (norms, other modules, custom autograd functions) gets its gradient in B, by
autograd. B frees every saved tensor but x and gy, so between B and W a micro-batch holds only what
W needs; this is the split of zero-bubble pipeline parallelism (arXiv 2401.10241, section 3) done
in the operators instead of by walking the autograd graph a second time.

Compiled code (`block.compile()`, in place) cannot write on a tape. There a layer takes two tensors
of nothing, its taps, to which its backward gives gy and x as if they were their gradients; what
made the taps, outside of the compiled code, writes them down. How large they are is known from the
first forward of inputs of such shapes, which is not compiled. What differs from that forward later
stops the compiled code, and goes on after it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zeropp.runtime.compat import transforming, uncompiled
from zeropp.runtime.split_rules import (
    GradientBuffers,
    SplitRule,
    as_rows,
    known_rule,
    require_right,
    rule_of,
)
from zeropp.runtime.tape import Call, Deferred, Recorder, Tape, autocast_of


class Called(NamedTuple):
    """A call of a split layer, by which a later one of compiled code finds its taps."""

    layer: "SplitLayer"
    call: Call
    y: Tensor  # of the output's shape and dtype, without memory
    x: Tensor  # likewise of the input


def _as_saved(x: Tensor) -> Tensor:
    """The copy that a product makes of what is not contiguous, and autograd keeps; or x."""
    return x if x.dim() <= 2 or x.is_contiguous() else as_rows(x).view(x.shape)


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: nn.Parameter | None,
        call: Call,
        recorder: Recorder,
    ) -> Tensor:
        x = _as_saved(x)
        ctx.save_for_backward(x)
        ctx.call, ctx.recorder, ctx.tape = call, recorder, recorder.tape
        y = call.rule.forward(x, weight, bias)
        # a view made in a function of ours could not be changed in place; nor may a change count
        # as one of what selective recomputation keeps, as it does of what is detached
        return y.data if y._is_view() else y

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, Any, Any, None, None]:
        (x,), call = ctx.saved_tensors, ctx.call
        gx = None
        with call.casting:
            if ctx.needs_input_grad[0]:
                gx = call.rule.input_gradient(gy, call.weight)
        deferred = Deferred(call, x, gy, x._version)
        if not ctx.recorder.inside:
            ctx.tape.record(deferred)
            return gx, None, None, None, None
        ctx.recorder.odd = True
        own = GradientBuffers(None)
        deferred.add_to(own)
        bias = None if call.bias is None else own.held(call.bias)
        return gx, own.held(call.weight), bias, None, None


split_product: Any = super(torch.autograd.Function, _Split).apply  # past a look for functorch


class _Traced(torch.autograd.Function):
    """The same in compiled code, without an effect outside of it."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        gy_tap: Tensor,
        x_tap: Tensor,
        rule: SplitRule,
    ) -> Tensor:
        x = _as_saved(x)
        ctx.save_for_backward(x, weight)
        ctx.rule = rule
        y = rule.forward(x, weight, bias)
        return torch.ops.aten._unsafe_view.default(y, y.shape)  # as above

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor, None, None, Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        return ctx.rule.input_gradient(gy, weight), None, None, gy, x, None


class _Taps(torch.autograd.Function):
    """The taps of a block's calls; their gradients are what is left for W."""

    @staticmethod
    def forward(
        ctx: Any, anchor: Tensor, tape: Tape, calls: Sequence[Called]
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.tape, ctx.calls = tape, calls
        return tuple(tap.detach() for called in calls for tap in (called.y, called.x))

    @staticmethod
    def backward(ctx: Any, *pairs: Tensor | None) -> tuple[None, None, None]:
        for called, gy, x in zip(ctx.calls, pairs[::2], pairs[1::2], strict=True):
            if gy is not None and x is not None:
                ctx.tape.record(Deferred(called.call, x, gy, x._version))
        return None, None, None


def nothing_like(tensor: Tensor) -> Tensor:
    """Of its shape and dtype, without memory."""
    return torch.empty((), dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)


@contextmanager
def tapped(calls: Sequence[Called], recorder: Recorder) -> Iterator[None]:
    """Compiled forwards inside make these calls, in this order."""
    taps = _Taps.apply(recorder.anchor, recorder.tape, calls) if calls else ()
    for called, *pair in reversed([*zip(calls, taps[::2], taps[1::2], strict=True)]):
        called.layer.split_taps.append(pair)
    try:
        yield
    finally:
        for called in calls:
            called.layer.split_taps.clear()


class Split(nn.Module):
    """What a module, or a layer, with weight gradients in W also is."""

    split_rule: SplitRule
    split_recorder: Recorder
    split_name: str
    split_untried: bool
    split_taps: list[list[Tensor]]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copied and saved as the module that it was."""
        kind = next(k for k in type(self).__mro__ if not issubclass(k, Split))
        added = Split.__annotations__
        own = {name: value for name, value in vars(self).items() if name not in added}
        return kind.__new__, (kind,), own


class SplitLayer(Split):
    """A split layer."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's own forward, whose backward is cut in two while a tape is there."""
        if torch.compiler.is_compiling():
            return self._compiling(*args, **kwargs)
        recorder = self.split_recorder
        if recorder.tape is None or not torch.is_grad_enabled():
            return super().forward(*args, **kwargs)
        weight: Any = self.weight
        bias: Any = getattr(self, "bias", None)
        if not _own(weight, bias) or transforming():
            recorder.odd = True
            return super().forward(*args, **kwargs)
        (x,) = (*args, *kwargs.values())
        if self.split_untried and x.numel():
            self.split_untried = False
            with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
                own = super().forward(x)
                require_right(self.split_name, self.split_rule, own, x, weight, bias)
        autocast = autocast_of(x.device.type)
        recorder.odd |= autocast[1] is not None
        call = Call(self.split_name, self.split_rule, weight, bias, autocast)
        y: Tensor = split_product(x, weight, bias, call, recorder)
        if recorder.calls is not None and x.is_floating_point():
            recorder.calls.append(Called(self, call, nothing_like(y), nothing_like(x)))
        return y

    def _compiling(self, *args: Any, **kwargs: Any) -> Tensor:
        if not torch.is_grad_enabled():
            return super().forward(*args, **kwargs)
        weight: Any = self.weight
        bias: Any = getattr(self, "bias", None)
        (x,) = (*args, *kwargs.values())
        if self.split_taps and _own(weight, bias):
            gy_tap, x_tap = self.split_taps.pop()
            if x.shape == x_tap.shape and x.dtype == x_tap.dtype:
                y: Tensor = _Traced.apply(x, weight, bias, gy_tap, x_tap, self.split_rule)
                if y.dtype == gy_tap.dtype:
                    return y
        return self._uncompiled(x)

    @uncompiled
    def _uncompiled(self, x: Tensor) -> Tensor:
        return self.forward(x)


def _own(weight: Any, bias: Any) -> bool:
    return isinstance(weight, nn.Parameter) and (bias is None or isinstance(bias, nn.Parameter))


@cache
def _split_class(also: type[nn.Module], kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"Split{kind.__name__}", (also, kind), {})


def become(also: type[Split], module: Any, name: str, recorder: Recorder) -> None:
    """Make a module write to a recorder, changing its class, as FSDP2 does, to a subclass."""
    kind: Any = type(module)
    if not issubclass(kind, Split):
        module.__class__ = _split_class(also, kind)  # type: ignore[arg-type]
    module.split_recorder, module.split_name = recorder, name


def split_layers(module: nn.Module, recorder: Recorder) -> None:
    """Make every layer inside `module` that a rule fits leave its W on a tape."""
    layer: Any
    for name, layer in module.named_modules():
        if (rule := rule_of(layer)) is not None:
            untried = getattr(layer, "split_untried", rule is not known_rule(layer))
            become(SplitLayer, layer, name, recorder)
            layer.split_rule, layer.split_untried, layer.split_taps = rule, untried, []

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
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from zeropp.runtime.compat import transforming
from zeropp.runtime.split_rules import (
    GradientBuffers,
    SplitRule,
    as_rows,
    known_rule,
    require_right,
    rule_of,
)

_Function = TypeVar("_Function", bound=Callable[..., object])


def uncompiled(function: _Function) -> _Function:
    """A decorator: compiled code stops before the function and goes on after it."""
    return torch.compiler.disable(function)


class Call(NamedTuple):
    """One call of a layer, as its backward needs it.

    Attributes:
        name: the layer's, global.
        rule: how it is split.
        weight: of the layer.
        bias: of the layer.
        autocast: of the forward: device type, and dtype, None where it is off.
    """

    name: str
    rule: SplitRule
    weight: nn.Parameter
    bias: nn.Parameter | None
    autocast: tuple[str, torch.dtype | None]

    @property
    def casting(self) -> AbstractContextManager[object]:
        """The forward's autocast, under which its backward runs."""
        device, dtype = self.autocast
        same = _autocast(device) == self.autocast
        return _AS_IT_IS if same else torch.autocast(device, dtype, dtype is not None)


_AS_IT_IS = nullcontext()


def _autocast(device: str) -> tuple[str, torch.dtype | None]:
    on = torch.is_autocast_enabled(device)
    return device, torch.get_autocast_dtype(device) if on else None


class Deferred(NamedTuple):
    """What one layer's W needs."""

    call: Call
    x: Tensor
    grad_output: Tensor
    version: int

    def add_to(self, gradients: GradientBuffers) -> None:
        """The layer's W; ValueError where x is not any more what it was in B."""
        name, rule, weight, bias, _ = self.call
        if self.x._version != self.version:
            raise ValueError(
                f"{name}: its input was changed in place before its weight gradient was made (W); "
                "give the layer a copy, or use a schedule that does not split B from W"
            )
        with self.call.casting:
            if weight.requires_grad:
                rule.add_weight_gradient(gradients, weight, self.x, self.grad_output)
            if bias is not None and bias.requires_grad:
                gradients.add(bias, as_rows(self.grad_output).sum(0))


class Tape:
    """What B of one micro-batch on one stage left for W.

    Args:
        gradients: where W adds to.
        seed: scalar, the gradient of the loss: 1 / tokens of the whole batch.

    Attributes:
        fused: run W at once, inside the backward (a BW).
        auxiliary: scalars from which B starts too, with the gradient of the loss.
    """

    def __init__(self, gradients: GradientBuffers, seed: Tensor) -> None:
        self.fused = False
        self.seed = seed
        self.auxiliary: list[GradientEdge] = []
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
        inside: whether a forward is running, also one that is run again; what is differentiated
            then is the model's own doing, and no B.
    """

    def __init__(self) -> None:
        self.tape: Tape | None = None
        self.losses: list[Tensor] = []
        self.inside = False
        self._counts = False

    @contextmanager
    def writing(self, tape: Tape | None, *, again: bool = False) -> Iterator[None]:
        """Forwards inside write to `tape`; in a backward, checkpointing runs them `again`."""
        held = self.tape, self._counts
        self.tape, self._counts = tape, not again
        try:
            yield
        finally:
            self.tape, self._counts = held

    def note(self, loss: Tensor) -> None:
        """Count an auxiliary loss, once for each micro-batch, and train it."""
        if self._counts:
            self.losses.append(loss.detach().float())
            if self.tape is not None and loss.requires_grad:
                self.tape.auxiliary.append(get_gradient_edge(loss))


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        call: Call,
        recorder: Recorder,
    ) -> Tensor:
        if x.dim() > 2 and not x.is_contiguous():
            x = as_rows(x).view(x.shape)  # the copy that the product would make, and torch save
        ctx.save_for_backward(x)
        ctx.call, ctx.recorder, ctx.tape = call, recorder, recorder.tape
        y = call.rule.forward(x, weight, bias)
        # a view made in a function of ours could not be changed in place
        return y.detach() if y._is_view() else y

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
        own = GradientBuffers(None)
        deferred.add_to(own)
        sums = own.take()
        return gx, sums.get(call.weight), sums.get(call.bias), None, None


_split: Any = super(torch.autograd.Function, _Split).apply  # past a look for functorch


class SplitLayer(nn.Module):
    """What a split layer also is."""

    split_rule: SplitRule
    split_recorder: Recorder
    split_name: str
    split_untried: bool

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's own forward, whose backward is cut in two while a tape is there."""
        if torch.compiler.is_compiling():
            return self._uncompiled(*args, **kwargs)
        recorder = self.split_recorder
        weight: Any = self.weight
        bias: Any = getattr(self, "bias", None)
        own = isinstance(weight, nn.Parameter) and (bias is None or isinstance(bias, nn.Parameter))
        if recorder.tape is None or not torch.is_grad_enabled() or not own or transforming():
            return super().forward(*args, **kwargs)
        (x,) = (*args, *kwargs.values())
        if self.split_untried and x.numel():
            self.split_untried = False
            with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
                own = super().forward(x)
                require_right(self.split_name, self.split_rule, own, x, weight, bias)
        autocast = _autocast(x.device.type)
        call = Call(self.split_name, self.split_rule, weight, bias, autocast)
        y: Tensor = _split(x, weight, bias, call, recorder)
        return y

    @uncompiled
    def _uncompiled(self, *args: Any, **kwargs: Any) -> Tensor:
        return self.forward(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copied and saved as the layer that it was."""
        kind = next(k for k in type(self).__mro__ if not issubclass(k, SplitLayer))
        added = SplitLayer.__annotations__
        own = {name: value for name, value in vars(self).items() if name not in added}
        return kind.__new__, (kind,), own


@cache
def _split_class(kind: type[nn.Module]) -> type[nn.Module]:
    return type(f"Split{kind.__name__}", (SplitLayer, kind), {})


def split_layers(module: nn.Module, recorder: Recorder) -> None:
    """Make every layer inside `module` that a rule fits leave its W on a tape.

    As FSDP2 does, this changes the class of the layers, to a subclass of their own.
    """
    layer: Any
    for name, layer in module.named_modules():
        if (rule := rule_of(layer)) is not None:
            kind: Any = type(layer)
            untried = getattr(layer, "split_untried", rule is not known_rule(layer))
            if not issubclass(kind, SplitLayer):
                layer.__class__ = _split_class(kind)
            layer.split_rule, layer.split_recorder, layer.split_name = rule, recorder, name
            layer.split_untried = untried

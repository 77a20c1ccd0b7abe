"""What B of a micro-batch leaves for W: a tape of layers' inputs and output gradients."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from zeropp.runtime.split_rules import GradientBuffers, SplitRule, as_rows


class Call(NamedTuple):
    """One call of a layer, as its backward needs it.

    Attributes:
        name: the layer's, global.
        rule: how it is split.
        weight: of the layer, or a view of a parameter.
        bias: of the layer.
        autocast: of the forward: device type, and dtype, None where it is off.
    """

    name: str
    rule: SplitRule
    weight: Tensor
    bias: nn.Parameter | None
    autocast: tuple[str, torch.dtype | None]

    @property
    def casting(self) -> AbstractContextManager[object]:
        """The forward's autocast, under which its backward runs."""
        device, dtype = self.autocast
        same = autocast_of(device) == self.autocast
        return _AS_IT_IS if same else torch.autocast(device, dtype, dtype is not None)


_AS_IT_IS = nullcontext()


def autocast_of(device: str) -> tuple[str, torch.dtype | None]:
    """As `Call.autocast`."""
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


class Recorded(nn.Module):
    """A module that writes on a notebook: that of its stage, None outside of a pipeline."""

    recorder: "Recorder | None" = None


class Recorder:
    """One stage's notebook while its blocks run.

    Attributes:
        tape: of the micro-batch whose forward is running now; None outside of training.
        losses: the auxiliary ones of forwards so far, scalars in fp32.
        inside: whether a forward is running, also one that is run again; what is differentiated
            then is the model's own doing, and no B.
        anchor: a leaf, which B asks for to reach what is made of it.
        calls: the split layers' ones, while someone wants to know them.
        counts: whether a forward is the first of its micro-batch, whose losses count.
        odd: whether one was not like others: cast, under a transform, or differentiated inside.
    """

    def __init__(self) -> None:
        self.tape: Tape | None = None
        self.losses: list[Tensor] = []
        self.inside = False
        self.anchor = torch.zeros((), requires_grad=True)
        self.calls: list[Any] | None = None
        self.odd = False
        self.counts = False

    @contextmanager
    def writing(self, tape: Tape | None, *, again: bool = False) -> Iterator[None]:
        """Forwards inside write to `tape`; in a backward, checkpointing runs them `again`."""
        held = self.tape, self.counts
        self.tape, self.counts = tape, not again
        try:
            yield
        finally:
            self.tape, self.counts = held

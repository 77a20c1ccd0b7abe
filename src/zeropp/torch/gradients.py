"""The gradients of a stage of torch's: W's sums joined with autograd's, divided and reduced.

What `.grad` held before a step is set aside meanwhile: it must not be divided once more, and torch
drops the gradients of sharded parameters where it goes from evaluating to training or back.
"""

from torch import Tensor, nn

import zeropp.torch.compat as compat
from zeropp.runtime.compat import finish_reductions
from zeropp.runtime.split_rules import GradientBuffers


class Gradients:
    """Of a stage whose parameters are whole: W adds to `sums`, and autograd to `.grad`.

    Args:
        module: the stage's.
    """

    def __init__(self, module: nn.Module) -> None:
        self.sums = GradientBuffers(None)
        self._module = module
        self._divisor = 1
        self._held: dict[nn.Parameter, Tensor] = {}

    def begin(self, divisor: int) -> None:
        """Of a step, all of whose gradients are divided by `divisor`: the number of micro-batches
        where the loss is a mean, else 1.
        """
        self._divisor = divisor
        for parameter in self._module.parameters():
            if parameter.grad is not None:
                self._held[parameter], parameter.grad = parameter.grad, None

    def reduce(self) -> None:
        """Nothing is sharded."""

    def finish(self) -> None:
        """Make every `.grad` complete, at the end of a step."""
        sums = self.sums.take()
        for parameter in self._module.parameters():
            parts = [part for part in (parameter.grad, sums.get(parameter)) if part is not None]
            if parts:
                total = parts[0].add_(parts[1]) if len(parts) > 1 else parts[0]
                parameter.grad = self._divided(total)
        self._put_back()

    def drop(self) -> None:
        """Leave nothing of a step that failed."""
        self.sums.take()
        for parameter in self._module.parameters():
            parameter.grad = None
        self._put_back()

    def _divided(self, total: Tensor) -> Tensor:
        return total if self._divisor == 1 else total.div_(self._divisor)

    def _put_back(self) -> None:
        while self._held:
            parameter, before = self._held.popitem()
            own = parameter.grad
            parameter.grad = before if own is None else before.add_(own)


class ShardedGradients(Gradients):
    """Of a stage whose parameters FSDP2 has sharded, itself and perhaps modules inside it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.sums = GradientBuffers(compat.reduce_dtype(module))

    def reduce(self) -> None:
        """Start to reduce what was found since the last time, of every trained parameter, since
        what is reduced has to be the same on all ranks.
        """
        for parameter, gradient in compat.taken_gradients(self._module):
            self.sums.add(parameter, gradient)
        found = self.sums.take()
        for parameter in compat.full_parameters(self._module):
            total = found.get(parameter)
            found[parameter] = self.sums.zeros(parameter) if total is None else self._divided(total)
        compat.reduce_sums(self._module, found)

    def finish(self) -> None:
        """Wait for the step's reductions."""
        finish_reductions(self._module)  # type: ignore[arg-type]
        self._put_back()

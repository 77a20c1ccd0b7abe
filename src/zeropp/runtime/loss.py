"""The loss of a micro-batch: a sum over its tokens, which the pipeline divides by those of all."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zeropp.runtime.block import Tensors, buffers_kept
from zeropp.runtime.inputs import Nested, kind_of

LossFn = Callable[..., Tensor]

_IGNORED = -100  # the `ignore_index` of torch's losses


class Loss:
    """`loss_fn(*outputs, targets)`, a sum, as the last stage calls it; ValueError for a module
    with parameters to train, which belong into a block.
    """

    def __init__(self, loss_fn: LossFn) -> None:
        if isinstance(loss_fn, nn.Module):
            for name, parameter in loss_fn.named_parameters():
                if parameter.requires_grad:
                    raise ValueError(
                        f"loss_fn: its parameter {name} would not be trained; move it into the "
                        "last block"
                    )
        self._loss_fn, self._tested = loss_fn, False

    def __call__(self, targets: Nested, outputs: Tensors) -> Tensors:
        """In fp32, with its graph; ValueError where `loss_fn` gives no number, and, the first time,
        where it gives a mean, or a number without a gradient.
        """
        loss = scalar("loss_fn", self._loss_fn(*outputs, targets))
        if not self._tested and torch.is_grad_enabled():
            self._tested = True
            trains = any(isinstance(y, Tensor) and y.requires_grad for y in outputs)
            if trains and not loss.requires_grad and loss != 0:
                raise ValueError("loss_fn gives a number without a gradient; do not detach it")
            self._require_sum(outputs, targets)
        return (loss,)

    def _require_sum(self, outputs: Tensors, targets: Nested) -> None:
        """A sum doubles where a sample is given twice; a mean stays, others do neither."""
        given = (*outputs, *(targets if isinstance(targets, tuple) else (targets,)))
        if len({t.shape[:1] for t in given}) != 1 or not given[0].shape[:1].numel():
            return
        module = self._loss_fn if isinstance(self._loss_fn, nn.Module) else nn.Module()
        try:
            with torch.no_grad(), buffers_kept(module):
                once, twice = (self._of_first(outputs, targets, times) for times in (1, 2))
        except Exception:  # it takes no such batch, so that nothing can be said
            return
        refuse_mean(once, twice)

    def _of_first(self, outputs: Tensors, targets: Nested, times: int) -> float:
        def first(tensor: Tensor) -> Tensor:
            return torch.cat([tensor[:1]] * times)

        compared = tuple(map(first, targets)) if isinstance(targets, tuple) else first(targets)
        return float(self._loss_fn(*map(first, outputs), compared))


def scalar(name: str, found: Any) -> Tensor:
    """The number that a function gives, in fp32; ValueError for anything else."""
    if not isinstance(found, Tensor) or found.numel() != 1 or not found.is_floating_point():
        raise ValueError(
            f"{name}: wanted a sum, one number as a float tensor; got {kind_of(found)}"
        )
    return found.float().reshape(())


def refuse_mean(once: float, twice: float) -> None:
    """Raise ValueError where the loss of something that is given twice is that of one."""
    if once != 0 and abs(twice / once - 1) < 1e-3:
        raise ValueError(
            "loss_fn gives a mean: of a sample that is repeated it is the same, where a sum "
            'doubles; use reduction="sum", the pipeline divides by the tokens of all ranks'
        )


def finished(output: Any) -> Any:
    """An output of the last block, made now where it is to be made in pieces."""
    return output.whole() if hasattr(output, "whole") else output


def count_valid(targets: Nested) -> Tensor | int:
    """Elements of the first target; of whole numbers those that losses do not ignore."""
    first = targets[0] if isinstance(targets, tuple) else targets
    if first.is_floating_point() or first.is_complex() or first.dtype is torch.bool:
        return first.numel()
    return (first != _IGNORED).sum()

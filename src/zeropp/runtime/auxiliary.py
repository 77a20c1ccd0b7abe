"""Losses made inside the model, on any stage, such as a mixture of experts' balancing loss.

    self.balance = zeropp.AuxiliaryLoss()          in a block's __init__
    x = self.balance(x, balancing_loss)            in its forward; x is passed on unchanged

The backward of x starts that of the loss too (as Megatron's carrier of auxiliary losses does), so
no loss has to travel to the last stage. Like `loss_fn`'s, the loss is a sum over the tokens of the
micro-batch: the pipeline adds it to them and divides by the tokens of the whole batch.
"""

from typing import Any

import torch
from torch import Tensor, nn

from zeropp.runtime.split import Recorder, uncompiled


class AuxiliaryLoss(nn.Module):
    """Adds a scalar loss to what is trained.

    Attributes:
        loss: outside of a pipeline, the latest loss, with its graph, to be added by hand.
        recorder: of the pipeline's stage that the loss is in; None outside of one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loss: Tensor | None = None
        self.recorder: Recorder | None = None

    @uncompiled
    def forward(self, x: Tensor, loss: Tensor) -> Tensor:
        """`x`, whose backward will also run `loss`'s.

        Args:
            x: a tensor that the model's loss depends on, any shape.
            loss: scalar.

        Raises:
            ValueError: `loss` is not a scalar.
        """
        if loss.dim() != 0:
            raise ValueError(f"an auxiliary loss must be a scalar, got shape {list(loss.shape)}")
        seed = None
        if self.recorder is None:
            self.loss = loss
        else:
            seed = self.recorder.note(loss)
        return _Carry.apply(x, loss, seed)


class _Carry(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor, seed: Tensor | None) -> Tensor:
        ctx.seed = seed
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        return grad, ctx.seed, None

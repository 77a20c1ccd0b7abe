"""Losses made inside the model, on any stage, such as a mixture of experts' balancing loss.

    self.balance = zeropp.AuxiliaryLoss()          in a block's __init__
    x = self.balance(x, balancing_loss)            in its forward; x is passed on unchanged

The stage's B starts from the loss as well as from its outputs, so no loss has to travel to the last
stage. Like `loss_fn`'s, the loss is a sum over the tokens of the micro-batch: the pipeline adds it
to them and divides by the tokens of the whole batch.
"""

from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from zeropp.runtime.compat import uncompiled
from zeropp.runtime.tape import Recorded


class AuxiliaryLoss(Recorded):
    """Adds a scalar loss to what is trained.

    Attributes:
        loss: outside of a pipeline, the latest loss, with its graph, to be added by hand.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loss: Tensor | None = None

    @uncompiled
    def forward(self, x: Tensor, loss: Tensor) -> Tensor:
        """`x`, as it is.

        Args:
            x: any tensor.
            loss: scalar.

        Raises:
            ValueError: `loss` is not a scalar.
        """
        if loss.dim() != 0:
            raise ValueError(f"an auxiliary loss must be a scalar, got shape {list(loss.shape)}")
        recorder = self.recorder
        if recorder is None:
            self.loss = loss
        elif recorder.counts:
            recorder.losses.append(loss.detach().float())
            if recorder.tape is not None and loss.requires_grad:
                recorder.tape.auxiliary.append(get_gradient_edge(loss))
        return x

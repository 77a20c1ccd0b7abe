"""What a step gives, the same on every rank: losses per token, or what failed on one rank."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor

from zeropp.runtime.block import Tensors
from zeropp.runtime.executor import Execution


@dataclass(frozen=True)
class StepOutput:
    """What a step or an evaluation returns, the same on every rank.

    Attributes:
        loss: mean of `loss_fn` per token over all micro-batches and data-parallel ranks; scalar,
            fp32.
        tokens: the number of tokens it is the mean of; scalar.
        auxiliary: the same mean of all auxiliary losses together; trained, and not in `loss`.
        metrics: the same mean of each metric asked for.
    """

    loss: Tensor
    tokens: Tensor
    auxiliary: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


class StepFailedError(RuntimeError):
    """A step that no rank has made, because something failed on one; all say what, and where."""


def outcome(
    execution: Execution, results: Sequence[Tensors], tokens: Tensor, metrics: Sequence[str] = ()
) -> StepOutput:
    """Sums over micro-batches and ranks, per token; collective, on all ranks.

    Args:
        results: by micro-batch, the loss and the metrics, where the last stage lives.

    Raises:
        StepFailedError: something failed on a rank. On a GPU, where nobody waits for the device,
            a rank that does not know of it yet is told in the meeting before the next step.
    """
    watchdog, device = execution.machine.watchdog, execution.machine.device
    totals = torch.zeros(3 + len(metrics), device=device)
    totals[0].fill_(execution.failed)  # an assignment would wait for the device
    for values in results if not execution.failed else ():
        totals[2:] += torch.stack(values)
    for stage in execution.machine.stages.values():
        for loss in stage.auxiliary_losses():
            totals[1] += loss
    with watchdog.during("in the all-reduce of the loss"):
        dist.all_reduce(totals)
    execution.machine.rest()
    if execution.failed or (device.type == "cpu" and totals[0]):
        if dist.get_world_size() == 1 and execution.failure is not None:
            raise execution.failure
        raise StepFailedError(watchdog.verdict()) from execution.failure
    auxiliary, loss, *others = (totals[1:] / tokens.clamp(min=1)).unbind()
    return StepOutput(loss, tokens, auxiliary, dict(zip(metrics, others, strict=True)))

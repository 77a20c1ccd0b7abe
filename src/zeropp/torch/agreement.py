"""What the ranks of a pipeline prepare, so that what one refuses is refused by all of them."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist


def together(prepare: Callable[[], str], stage: Any) -> list[str]:
    """What `prepare` returns on every rank of the stage's pipeline; collective on these.

    Raises:
        ValueError: on all of them, where it is raised on one.
    """
    reason, told = "", ""
    try:
        told = prepare()
    except ValueError as error:
        reason = str(error)
    every: list[Any] = [None] * stage.group_size
    device = torch.device(stage.device)
    index = None if device.type == "cpu" else device.index  # of cpu:0 too there is no accelerator
    with torch.accelerator.device_index(index):  # NCCL's objects
        dist.all_gather_object(every, (reason, told), group=stage.group)
    reasons = [reason for reason, _ in every]
    for rank, reason in enumerate(reasons):
        if reason:
            raise ValueError(reason if set(reasons) == {reason} else f"rank {rank}: {reason}")
    return [told for _, told in every]

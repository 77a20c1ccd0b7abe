"""What an execution runs on, and what it is fed with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zeropp.ir import Placement
from zeropp.runtime.boundary import Boundaries, Tensors
from zeropp.runtime.channel import Messages
from zeropp.runtime.constants import Constants
from zeropp.runtime.lane import Lane
from zeropp.runtime.microbatches import Microbatch
from zeropp.runtime.stage import Stage
from zeropp.runtime.watchdog import Watchdog

Head = Callable[[Microbatch, Tensors], Tensors]


@dataclass(frozen=True)
class Machine:
    """What a rank executes programs with.

    Attributes:
        placement: stage -> rank.
        stages: this rank's stages by global index.
        messages: point-to-point with the other ranks of the pipeline.
        boundaries: what travels between stages.
        device: where this rank computes.
        watchdog: told of every action that begins.
        lane: where collectives run.
    """

    placement: Placement
    stages: Mapping[int, Stage]
    messages: Messages
    boundaries: Boundaries
    device: torch.device
    watchdog: Watchdog
    lane: Lane

    def close(self) -> None:
        """Stop watching and end communication; nothing can run afterwards."""
        self.watchdog.close()
        self.messages.close()
        self.lane.close()


@dataclass(frozen=True)
class Feed:
    """What a step is fed with.

    Attributes:
        microbatches: the batch; every rank has it, and uses the parts that it needs.
        constants: the same for every micro-batch.
        head: what the last stage makes of its outputs: a loss, or the outputs themselves.
        seed: scalar, gradient of the head's result; None: run forwards only, without autograd.
    """

    microbatches: Sequence[Microbatch]
    constants: Constants
    head: Head
    seed: Tensor | None

"""What carries tensors between ranks: the seam behind which a rehearsal puts slower links."""

from collections.abc import Sequence
from typing import Protocol

import torch

from zeropp.ir import Action, Placement
from zeropp.runtime.boundary import Specs
from zeropp.runtime.channel import Arrival, Channels
from zeropp.runtime.lane import Lane, StreamLane, ThreadLane
from zeropp.runtime.stage import Tensors


class Messages(Protocol):
    """Point-to-point, as the executor sees it."""

    def send(self, action: Action, tensors: Tensors) -> None:
        """Start sending for a SEND action; the tensors stay alive until they are sent."""

    def receive(self, action: Action, specs: Specs) -> Arrival:
        """Post the receive of a RECV action."""

    def flush(self) -> None:
        """Wait until everything is sent."""

    def close(self) -> None:
        """Nothing can be sent afterwards."""


class Transport(Protocol):
    """Makes what a pipeline communicates by."""

    def messages(
        self, placement: Placement, pipelines: Sequence[Sequence[int]], device: torch.device
    ) -> Messages:
        """Point-to-point of this rank's pipeline; collective, on all ranks."""

    def lane(self, device: torch.device) -> Lane:
        """Where this rank's collectives run."""


class Direct:
    """The process groups of torch.distributed, as they are."""

    def messages(
        self, placement: Placement, pipelines: Sequence[Sequence[int]], device: torch.device
    ) -> Messages:
        """A process group for each channel."""
        return Channels(placement, pipelines, device)

    def lane(self, device: torch.device) -> Lane:
        """FSDP2's streams on a GPU, a thread on a CPU."""
        return ThreadLane() if device.type == "cpu" else StreamLane()

"""Time as the device sees it: the clock on a CPU, events on a GPU's stream."""

import time
from typing import Any, Protocol

import torch


class Clock(Protocol):
    """Marks moments; how far they are apart is known once they are settled."""

    def now(self) -> Any:
        """This moment, as the device will come to it."""

    def settle(self) -> None:
        """Wait until every moment asked for is known."""

    def seconds(self, start: Any, end: Any) -> float:
        """Between two moments."""


class HostClock:
    """Seconds of the process."""

    def now(self) -> Any:
        """This moment, as the device will come to it."""
        return time.perf_counter()

    def settle(self) -> None:
        """Wait until every time asked for is known."""

    def seconds(self, start: Any, end: Any) -> float:
        """Between two times."""
        return float(end - start)


class StreamClock:
    """Events on the current stream of a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def now(self) -> Any:
        """This moment, as the device will come to it."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def settle(self) -> None:
        """Wait until every time asked for is known."""
        torch.cuda.synchronize(self._device)

    def seconds(self, start: Any, end: Any) -> float:
        """Between two times."""
        return float(start.elapsed_time(end)) / 1e3


def clock_of(device: torch.device) -> Clock:
    """The clock of a device."""
    return StreamClock(device) if device.type == "cuda" else HostClock()

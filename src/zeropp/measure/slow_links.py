"""Links that take as long as those of a cluster would: real transfers, kept back until then.

message      starts when it is sent and its channel is free, keeps that busy for `transfer`, and
             leaves `latency` later
collective   takes at least its `gather` or `reduce`, in the program's order
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch.distributed.fsdp import FSDPModule

from zeropp.ir import Action, Placement
from zeropp.ir.precedence import Channel, channel_of
from zeropp.runtime.boundary import Specs
from zeropp.runtime.channel import Arrival, Direct, Messages
from zeropp.runtime.lane import Lane, ThreadLane, Wait
from zeropp.runtime.stage import Tensors


class SlowLinks:
    """A transport of CPUs with the delays of other links.

    Args:
        latency: seconds of a hop.
        transfer: seconds that a message keeps its channel busy.
        gather: seconds of an all-gather of one stage.
        reduce: seconds of a reduce-scatter of one stage.
    """

    def __init__(
        self,
        latency: float = 0.0,
        transfer: float = 0.0,
        gather: float = 0.0,
        reduce: float = 0.0,
    ) -> None:
        self._latency, self._transfer = latency, transfer
        self._gather, self._reduce = gather, reduce

    def messages(
        self, placement: Placement, ranks: Sequence[int], device: torch.device
    ) -> Messages:
        """Real channels, each behind a thread that keeps messages back."""
        real = Direct().messages(placement, ranks, device)
        return _SlowMessages(real, placement, self._latency, self._transfer)

    def lane(self, device: torch.device) -> Lane:
        """A real lane whose collectives take their time."""
        return _SlowLane(self._gather, self._reduce)


class _SlowMessages:
    def __init__(
        self, real: Messages, placement: Placement, latency: float, transfer: float
    ) -> None:
        self._real, self._placement = real, placement
        self._latency, self._transfer = latency, transfer
        self._threads: dict[Channel, ThreadPoolExecutor] = defaultdict(
            lambda: ThreadPoolExecutor(1)
        )
        self._free: dict[Channel, float] = defaultdict(float)
        self._leaving: list[Future[None]] = []

    def send(self, action: Action, tensors: Tensors) -> None:
        channel = channel_of(action, self._placement)
        start = max(time.perf_counter(), self._free[channel])
        self._free[channel] = start + self._transfer
        leaves = self._free[channel] + self._latency

        def work() -> None:
            _sleep_until(leaves)
            self._real.send(action, tensors)

        self._leaving.append(self._threads[channel].submit(work))

    def receive(self, action: Action, specs: Specs) -> Arrival:
        return self._real.receive(action, specs)

    def flush(self) -> None:
        leaving, self._leaving = self._leaving, []
        for message in leaving:
            message.result()
        self._real.flush()

    def close(self) -> None:
        for thread in self._threads.values():
            thread.shutdown()
        self._real.close()


class _SlowLane:
    def __init__(self, gather: float, reduce: float) -> None:
        self._real, self._gather, self._reduce = ThreadLane(), gather, reduce
        self._rests: list[Future[None]] = []

    def gather(self, module: FSDPModule) -> Wait:
        began = self._real.run(time.perf_counter)
        gathered = self._real.gather(module)
        rest = self._rest_of(began, self._gather)

        def wait() -> None:
            gathered()
            rest.result()

        return wait

    def reduce(self, start: Callable[[], None], finish: Callable[[], None]) -> None:
        began = self._real.run(time.perf_counter)
        self._real.reduce(start, finish)
        self._rests.append(self._rest_of(began, self._reduce))

    def wait(self) -> None:
        self._real.wait()
        rests, self._rests = self._rests, []
        for rest in rests:
            rest.result()

    def close(self) -> None:
        self._real.close()

    def _rest_of(self, began: Future[float], seconds: float) -> "Future[None]":
        """What is left of a collective's time when the real one has ended."""
        return self._real.run(lambda: _sleep_until(began.result() + seconds))


def _sleep_until(end: float) -> None:
    time.sleep(max(0.0, end - time.perf_counter()))

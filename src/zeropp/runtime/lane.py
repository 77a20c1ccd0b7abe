"""Where a rank's collectives run beside its compute, in the program's order.

GPU     FSDP2's own streams: a collective is issued and the host goes on
CPU     a thread: FSDP2's reduce-scatter, unlike its all-gather, blocks its caller on gloo
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from torch.distributed.fsdp import FSDPModule

Wait = Callable[[], object]
_Found = TypeVar("_Found")


class Lane:
    """Runs the gathers and reductions of all stages of a rank, one after the other; for GPUs."""

    def gather(self, module: FSDPModule) -> Wait:
        """Start gathering the module's parameters; what is returned waits for them."""
        handle = module.unshard(async_op=True)
        assert handle is not None, "FSDP2 gives a handle for an asynchronous all-gather"
        return handle.wait

    def reduce(self, start: Callable[[], None], finish: Callable[[], None]) -> None:
        """Start a reduction; `finish` waits for it and frees its buffers, or the next one does."""
        start()

    def wait(self) -> None:
        """Wait until every reduction was issued, and on a CPU has ended; raises what failed."""

    def close(self) -> None:
        """Nothing runs afterwards."""


class ThreadLane(Lane):
    """For CPUs."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="collectives")
        self._reductions: list[Future[None]] = []

    def run(self, work: Callable[[], _Found]) -> "Future[_Found]":
        """Anything, in its turn."""
        return self._thread.submit(work)

    def gather(self, module: FSDPModule) -> Wait:
        """Gather in the thread."""
        return self.run(lambda: Lane.gather(self, module)()).result

    def reduce(self, start: Callable[[], None], finish: Callable[[], None]) -> None:
        """Reduce in the thread."""

        def work() -> None:
            start()
            finish()

        self._reductions.append(self.run(work))

    def wait(self) -> None:
        """Wait until every reduction has ended."""
        reductions, self._reductions = self._reductions, []
        for reduction in reductions:
            reduction.result()

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

"""Measuring a step: when every compute action ran on every rank, as one timeline."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from zeropp.ir import Action, Placement, Span, Timeline

_MS = 1e3


class Trace:
    """Records the spans of one step: pass `trace.span` to `Pipeline.step`.

    Each span is closed only when the device has finished it, so tracing slows a GPU step a little;
    it is off unless a step is given a trace. Ranks agree on time zero by a barrier.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._spans: list[Span] = []
        dist.barrier()
        self._origin = time.perf_counter()

    @contextmanager
    def span(self, action: Action) -> Iterator[None]:
        """Measure the body as `action`, in ms since the trace began."""
        start = self._now()
        yield
        self._spans.append(Span(action, start, self._now()))

    def gather(self, placement: Placement, title: str, ranks: list[int]) -> Timeline:
        """The timeline of the pipeline whose global ranks are `ranks`; collective, on all ranks."""
        every: list[list[Span] | None] = [None] * dist.get_world_size()
        dist.all_gather_object(every, self._spans)
        return Timeline(title, placement, tuple(tuple(every[rank] or ()) for rank in ranks), "ms")

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return (time.perf_counter() - self._origin) * _MS

"""What ranks tell each other beside every step, while it runs: wishes to stop or to save, and how
much memory the fullest of them held before it.
"""

import signal
import time

import torch
import torch.distributed as dist


class Pulse:
    """One reduction of small numbers a step, on a group of its own; made on all ranks.

    Args:
        save_minutes: after which the first rank's clock asks for a checkpoint; None: it does not.

    Attributes:
        held: bytes that the fullest rank has told; known when a pulse has ended.
    """

    def __init__(self, save_minutes: float | None) -> None:
        self._group = dist.new_group(backend="gloo")
        self._every = None if save_minutes is None else 60 * save_minutes
        self._since = time.monotonic()
        self._wishes = torch.zeros(3, dtype=torch.int64)
        self.held = 0
        self._work: dist.Work | None = None

    def begin(self, stop: signal.Signals | None, held: int) -> None:
        """Send this rank's wishes, and the bytes it held; the answer is there when the step is."""
        late = self._every is not None and time.monotonic() - self._since > self._every
        self._wishes = torch.tensor([int(stop or 0), int(late and dist.get_rank() == 0), held])
        self._work = dist.all_reduce(self._wishes, dist.ReduceOp.MAX, self._group, async_op=True)

    def end(self) -> tuple[signal.Signals | None, bool]:
        """The signal on which the run stops, and whether it is time to save; on all ranks alike."""
        if self._work is None:
            raise RuntimeError("a pulse begins before it ends")
        self._work.wait()
        stop, save, self.held = self._wishes.tolist()
        return signal.Signals(stop) if stop else None, bool(save)

    def saved(self) -> None:
        """The clock begins anew."""
        self._since = time.monotonic()

    def close(self) -> None:
        """Give the group back."""
        dist.destroy_process_group(self._group)

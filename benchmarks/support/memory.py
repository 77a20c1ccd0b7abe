"""What a process holds: by the kernel's count, in MiB; and by the action that made each storage.

category              a storage that
gradients             is a parameter's `.grad` at the end of the step
the action itself     was made by the action that runs now
until B               was made in F, and B has not run yet
between B and W       was made in F or B, B has run, and it dies in W or later, W being to come
messages, buffers     was made outside of any action, or outlives the action that it was made for
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from zeropp.ir import Action, Kind
from zeropp.measure.memory import Alive
from zeropp.runtime.executor import Phase

# environment of ranks whose allocator returns freed memory, so that only what is alive counts
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
GRADIENTS, OWN, MESSAGES = "gradients", "the action itself", "messages, buffers"
UNTIL_B, UNTIL_W = "until B", "between B and W"
CATEGORIES = GRADIENTS, OWN, UNTIL_B, UNTIL_W, MESSAGES


def resident(most: bool = False) -> float:
    """Now, or with `most` at any moment since `grown` last began."""
    name = "VmHWM:" if most else "VmRSS:"
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def anonymous() -> int:
    """Bytes of this process that no file backs."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("the kernel does not tell RssAnon")


def grown(run: Callable[[], object]) -> float:
    """The most at any moment of `run`, above what was held before."""
    before = resident()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak
    run()
    return resident(most=True) - before


def process_groups() -> int:
    """How many this process is in."""
    return len(dist.distributed_c10d._world.pg_map)


@dataclass
class _Made:
    """One storage: its size, the action that ran at its birth, and when it died."""

    size: int
    action: Action | None
    died: float = inf
    gradient: bool = False


class MemoryLog(Alive):
    """Logs one rank's steps, of which the last counts; told of the actions that compute."""

    def __init__(self) -> None:
        super().__init__()
        self.order: list[Action] = []  # compute actions of the last step, as they ran
        self._began: dict[Action, int] = {}
        self._ended: dict[Action, int] = {}
        self._running: Action | None = None
        self._now = self._most = self._at = 0  # times count operators
        self._fullest: list[_Made] = []
        self._alive: dict[int, tuple[StorageWeakRef, _Made]] = {}

    def note(self, made: list[Any]) -> None:
        """An operator has ended that made these storages."""
        self._now += 1
        self._bury()
        for storage in made:
            if storage._cdata not in self._alive:
                one = _Made(storage.nbytes(), self._running)
                self._alive[storage._cdata] = StorageWeakRef(storage), one
        alive = [one for _, one in self._alive.values()]
        total = sum(one.size for one in alive)
        if total > self._most:
            self._most, self._at, self._fullest = total, self._now, alive

    def observe(self, action: Action, phase: Phase) -> None:
        """A phase of an action ends; all but W wait for what they need before they compute."""
        self._bury()
        if phase is Phase.COMPUTE:
            self._ended[action] = self._now
            self._running = None
        elif phase is Phase.PARAMETERS or action.kind is Kind.W:
            self._running = action
            if action not in self._began:
                self._began[action] = self._now
                self.order.append(action)

    def begin_step(self) -> None:
        """A new step; what an earlier one has left is a buffer."""
        self._bury()
        self.order, self._began, self._ended, self._most = [], {}, {}, 0
        for _, made in self._alive.values():
            made.action = None

    def at_peak(self, gradients: Iterable[Tensor]) -> dict[str, int]:
        """Bytes by category when most were alive in the last step, whose gradients are given."""
        self._bury()
        for gradient in gradients:
            self._alive[gradient.untyped_storage()._cdata][1].gradient = True
        sizes = dict.fromkeys(CATEGORIES, 0)
        for made in self._fullest:
            sizes[self._category(made)] += made.size
        return sizes

    def _category(self, made: _Made) -> str:
        if made.gradient or made.action is None:
            return GRADIENTS if made.gradient else MESSAGES
        if self._began[made.action] <= self._at <= self._ended[made.action]:
            return OWN
        _, stage, microbatch = made.action
        kinds = (Kind.BW, Kind.B, Kind.W)
        fused, backward, weight = (Action(kind, stage, microbatch) for kind in kinds)
        over = {action for action, end in self._ended.items() if end <= self._at}
        if fused in over or weight in over:
            return MESSAGES
        if backward not in over:
            return UNTIL_B
        return UNTIL_W if made.died >= self._began[weight] else MESSAGES

    def _bury(self) -> None:
        for key in [k for k, (storage, _) in self._alive.items() if storage.expired()]:
            self._alive.pop(key)[1].died = self._now

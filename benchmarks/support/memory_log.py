"""Who made the memory that is alive: every storage with the compute action that ran at its birth.

category              a storage that
gradients             is a parameter's `.grad` at the end of the step
the action itself     was made by the action that runs now
until B               was made in F, and B has not run yet
between B and W       was made in F or B, B has run, and it dies in W or later, W being to come
messages, buffers     was made outside of any action, or outlives the action that it was made for
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zeropp.ir import Action, Kind
from zeropp.runtime.observer import Phase

GRADIENTS, OWN, MESSAGES = "gradients", "the action itself", "messages, buffers"
UNTIL_B, UNTIL_W = "until B", "between B and W"
CATEGORIES = GRADIENTS, OWN, UNTIL_B, UNTIL_W, MESSAGES


@dataclass
class _Made:
    """One storage: its size, the action that ran at its birth, and when it died."""

    size: int
    action: Action | None
    died: float = inf
    gradient: bool = False


class MemoryLog(TorchDispatchMode):
    """Logs one rank's steps, of which the last counts; told of the actions that compute.

    Attributes:
        order: the compute actions of the last step, as they ran.
    """

    def __init__(self) -> None:
        super().__init__()
        self.order: list[Action] = []
        self._began: dict[Action, int] = {}
        self._ended: dict[Action, int] = {}
        self._running: Action | None = None
        self._now = self._most = self._at = 0  # times count operators
        self._fullest: list[_Made] = []
        self._alive: dict[int, tuple[StorageWeakRef, _Made]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator and note what it made."""
        given = {s._cdata for s in _storages((args, kwargs))}
        results = func(*args, **(kwargs or {}))
        self._now += 1
        self._bury()
        for storage in _storages(results):
            if storage._cdata not in given and storage._cdata not in self._alive:
                made = _Made(storage.nbytes(), self._running)
                self._alive[storage._cdata] = StorageWeakRef(storage), made
        alive = [made for _, made in self._alive.values()]
        total = sum(made.size for made in alive)
        if total > self._most:
            self._most, self._at, self._fullest = total, self._now, alive
        return results

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

    def peak(self, gradients: Iterable[Tensor]) -> dict[str, int]:
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


def _storages(values: Any) -> list[Any]:
    return [t.untyped_storage() for t in tree_leaves(values) if isinstance(t, Tensor)]

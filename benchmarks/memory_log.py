"""Who made the memory that is alive: every storage with the compute action that ran at its birth.

category              a storage that
gradients             is a parameter's `.grad` at the end of the step
the action itself     was made by the action that runs now
until B               was made in F, and B has not run yet
between B and W       was made in F or B, B has run, and it dies in W or later, W being to come
messages, buffers     was made outside of any action, or outlives the action that it was made for
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zeropp.ir import Action, Kind

GRADIENTS, OWN, UNTIL_B, UNTIL_W, MESSAGES = CATEGORIES = (
    "gradients",
    "the action itself",
    "until B",
    "between B and W",
    "messages, buffers",
)


@dataclass
class _Made:
    """One storage: its size and its life, in operators that had run."""

    size: int
    born: int
    action: Action | None
    died: float = float("inf")
    gradient: bool = False

    def alive(self, now: int) -> bool:
        return self.born <= now < self.died


class MemoryLog(TorchDispatchMode):
    """Logs one rank's steps, of which the last counts.

    Attributes:
        order: the compute actions of the last step, as they ran.
    """

    def __init__(self) -> None:
        super().__init__()
        self.order: list[Action] = []
        self._began: dict[Action, int] = {}
        self._ended: dict[Action, int] = {}
        self._running: Action | None = None
        self._now = self._first = 0
        self._made: list[_Made] = []
        self._alive: dict[int, tuple[StorageWeakRef, _Made]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator and note what it made."""
        given = {s._cdata for s in _storages((args, kwargs))}
        results = func(*args, **(kwargs or {}))
        self._now += 1
        self._bury()
        for storage in _storages(results):
            if storage._cdata not in given and storage._cdata not in self._alive:
                made = _Made(storage.nbytes(), self._now, self._running)
                self._made.append(made)
                self._alive[storage._cdata] = StorageWeakRef(storage), made
        return results

    def mark(self, action: Action | None) -> None:
        """An action begins, or, with None, the one that ran has ended."""
        self._bury()
        if self._running is not None:
            self._ended[self._running] = self._now
        if action is not None and action not in self._began:
            self._began[action] = self._now
            self.order.append(action)
        self._running = action

    def begin_step(self) -> None:
        """A new step; what an earlier one has left is a buffer."""
        self._bury()
        self.order, self._began, self._ended = [], {}, {}
        self._first, self._made = self._now, [made for _, made in self._alive.values()]
        for made in self._made:
            made.action = None

    def peak(self, gradients: Iterable[Tensor]) -> dict[str, int]:
        """Bytes by category when most were alive in the last step, whose gradients are given."""
        self._bury()
        for gradient in gradients:
            self._alive[gradient.untyped_storage()._cdata][1].gradient = True
        changes: Counter[float] = Counter()
        for made in self._made:
            changes[max(made.born, self._first)] += made.size
            changes[made.died] -= made.size
        total, most, at = 0, 0, self._first
        for now in sorted(t for t in changes if t <= self._now):
            total += changes[now]
            if total > most:
                most, at = total, int(now)
        return self._by_category(at)

    def _by_category(self, now: int) -> dict[str, int]:
        sizes = dict.fromkeys(CATEGORIES, 0)
        for made in self._made:
            if made.alive(now):
                sizes[self._category(made, now)] += made.size
        return sizes

    def _category(self, made: _Made, now: int) -> str:
        if made.gradient:
            return GRADIENTS
        if made.action is None:
            return MESSAGES
        if self._began[made.action] <= now <= self._ended[made.action]:
            return OWN
        _, stage, microbatch = made.action
        fused, backward, weight = (
            Action(kind, stage, microbatch) for kind in (Kind.BW, Kind.B, Kind.W)
        )
        if self._over(fused, now) or self._over(weight, now):
            return MESSAGES
        if not self._over(backward, now):
            return UNTIL_B
        return UNTIL_W if made.died >= self._began[weight] else MESSAGES

    def _over(self, action: Action, now: int) -> bool:
        return self._ended.get(action, self._now + 1) <= now

    def _bury(self) -> None:
        for key in [k for k, (storage, _) in self._alive.items() if storage.expired()]:
            self._alive.pop(key)[1].died = self._now


def _storages(values: Any) -> list[Any]:
    return [t.untyped_storage() for t in tree_leaves(values) if isinstance(t, Tensor)]

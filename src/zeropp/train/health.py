"""Whether a run is well: losses that are finite and calm, copies that are equal, ranks as fast."""

import statistics
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from zeropp.launch import Ended
from zeropp.runtime.mesh import REPLICATE, gathered, size_along
from zeropp.runtime.pipeline import Pipeline
from zeropp.runtime.ties import local_part, owner_names

_LOOKED_AT = 50  # losses before one that may be a spike
_FEWEST = 10
_FAR = 6.0  # times the usual distance from the median
_SLOWER = 1.5  # times what a rank's own step once took


@dataclass
class Losses:
    """The losses of a run, the same on every rank.

    Args:
        stop_after: skipped steps in a row after which the run ends.
    """

    stop_after: int
    _calm: deque[float] = field(default_factory=lambda: deque(maxlen=_LOOKED_AT))
    _skipped: int = 0

    def skipped(self, step: int, last_good: str) -> str:
        """What is said of a step whose gradients are not finite, so that nothing was changed.

        Raises:
            Ended: there were too many in a row.
        """
        self._skipped += 1
        if self._skipped < self.stop_after:
            return f"step {step}: its gradients are not finite; the step is skipped"
        raise Ended(
            f"step {step}: gradients were not finite in {self._skipped} steps in a row; lower "
            f"optim.lr or raise optim.warmup, and go on from {last_good}"
        )

    def is_spike(self, loss: float) -> bool:
        """Whether a loss is far above those of the steps before; it then counts as one of them."""
        self._skipped = 0
        far = False
        if len(self._calm) >= _FEWEST:
            middle = statistics.median(self._calm)
            usual = statistics.median(abs(one - middle) for one in self._calm)
            far = loss - middle > _FAR * max(usual, 0.01 * abs(middle))
        self._calm.append(loss)
        return far


class Speeds:
    """How long each rank computes in a step, without what it waits for, against its own best."""

    def __init__(self) -> None:
        self._best: dict[int, float] = {}

    def slow(self, compute_s: float) -> list[str]:
        """Who has become slower, and by how much; collective, the same on every rank."""
        said = []
        for rank, now in enumerate(gathered(compute_s)):
            best = self._best[rank] = min(now, self._best.get(rank, now))
            if now > _SLOWER * best:
                said.append(f"rank {rank} computes {now / best:.1f} times as long as it did")
        return said


def copied(pipe: Pipeline) -> str:
    """Of what there are copies, whose equality `require_equal_copies` looks at."""
    replicas = size_along(pipe.mesh, REPLICATE)
    parts = [f"all parameters, {replicas} times"] if replicas > 1 else []
    parts += ["tied parameters"] if pipe.ties else []
    return " and ".join(parts)


def require_equal_copies(pipe: Pipeline, last_good: str) -> None:
    """Raise Ended on every rank where copies of a parameter differ; collective.

    Compared is a sum of their bits; which of two copies is wrong cannot be told.
    """
    if not copied(pipe):
        return
    names = owner_names(pipe.ties)
    own = {_place(pipe, names.get(n, n)): _bits(local_part(p)) for n, p in _held_twice(pipe)}
    sums = torch.stack([*own.values()]).tolist() if own else []
    holders: dict[str, dict[int, list[int]]] = {}
    for rank, held in enumerate(gathered(dict(zip(own, sums, strict=True)))):
        for place, bits in held.items():
            holders.setdefault(place, {}).setdefault(bits, []).append(rank)
    for place, found in holders.items():
        if len(found) > 1:
            raise Ended(
                f"copies of {place} differ between {_sides(found)}: memory or a device is faulty; "
                f"go on from {last_good}"
            )


def _held_twice(pipe: Pipeline) -> Iterator[tuple[str, Tensor]]:
    names = owner_names(pipe.ties)
    tied = {*names, *names.values()}
    for name, parameter in pipe.named_parameters():
        if size_along(pipe.mesh, REPLICATE) > 1 or name in tied:
            yield name, parameter


def _place(pipe: Pipeline, name: str) -> str:
    shard = pipe.mesh.get_coordinate()
    assert shard is not None
    return name if shard[-1] == 0 else f"{name} (part {shard[-1]})"


def _bits(tensor: Tensor) -> Tensor:
    """The sum of a tensor's bits, as whole numbers of its own size."""
    plain = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return plain.detach().contiguous().view(whole[plain.element_size()]).sum(dtype=torch.int64)


def _sides(found: Mapping[int, Iterable[int]]) -> str:
    """The ranks of each kind of copy, the fewest first."""
    groups = sorted(map(sorted, found.values()), key=len)
    return " and ".join("rank " + ", ".join(map(str, ranks)) for ranks in groups)


__all__ = ["Losses", "Speeds", "copied", "require_equal_copies"]

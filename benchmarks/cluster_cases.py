"""What is compared on the cluster: schedules, batches, link rates, mappings of ranks to hosts."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from cluster_hosts import Cluster


@dataclass(frozen=True)
class Times:
    """Seconds that F, B and W of a block take."""

    forward: float
    backward: float
    weight: float


D = 2  # ranks in a shard group, and ranks on a host
V = 4
TIMES = Times(forward=0.015, backward=0.015, weight=0.015)


class Mapping(StrEnum):
    """Where the ranks of a shard group are; pipelines are across hosts in both.

    inside    host h: both ranks of stage rank h      gathers stay on a host, every message leaves
    across    host h: two neighbours of a pipeline    gathers leave, every other message does
    """

    INSIDE = "inside"
    ACROSS = "across"


@dataclass(frozen=True)
class Case:
    """One schedule in one runtime.

    Attributes:
        runtime: `zeropp`, or `torch` for torch.distributed.pipelining.
        schedule: by that runtime's name.
        num_chunks: V.
        shard: how often parameters are gathered and gradients reduced; torch reduces once a step.
        unit_size: U.
        seam: between units.
    """

    runtime: str
    schedule: str
    num_chunks: int
    shard: str
    unit_size: int | None = None
    seam: str | None = None

    def __str__(self) -> str:
        if self.unit_size is not None:
            return f"{self.schedule} {self.seam} U={self.unit_size}"
        return f"{self.runtime} {self.schedule} {self.shard}"


ZERO_3 = Case("zeropp", "1f1b", 1, "microbatch")
ZERO_2 = Case("zeropp", "1f1b", 1, "step")
BREADTH_FIRST = Case("zeropp", "breadth-first", V, "unit")


def cases(pp_size: int, batch: int) -> list[Case]:
    """Everything that exists for B micro-batches on P ranks; ZeroPP last."""
    return [*_peers(pp_size, batch), *_torch(pp_size, batch), *zeropp_cases(pp_size, batch)]


def zeropp_cases(pp_size: int, batch: int) -> list[Case]:
    """Drained and carried, with every unit size up to B."""
    units = sorted({min(U, batch) for U in (pp_size, 2 * pp_size - 1, batch)})
    return [
        Case("zeropp", "zeropp", V, "unit", U, seam) for seam in ("drain", "carry") for U in units
    ]


def _peers(pp_size: int, batch: int) -> Iterator[Case]:
    yield from (ZERO_3, ZERO_2, BREADTH_FIRST)
    if batch % pp_size == 0:
        yield Case("zeropp", "interleaved-1f1b", V, "step")


def _torch(pp_size: int, batch: int) -> Iterator[Case]:
    if batch >= pp_size:  # which its 1F1B asks for
        yield Case("torch", "1F1B", 1, "microbatch")
        yield Case("torch", "1F1B", 1, "step")
    yield Case("torch", "LoopedBFS", V, "unit")
    if batch % pp_size == 0:
        yield Case("torch", "Interleaved1F1B", V, "unit")


@dataclass(frozen=True)
class Batch:
    """One number of micro-batches.

    Attributes:
        size: B.
        steps: how many are measured at each rate.
        rates: of the links, in Mbit/s; None: as fast as the machine.
    """

    size: int
    steps: int
    rates: tuple[float | None, ...]


@dataclass(frozen=True)
class Job:
    """What the ranks measure.

    Attributes:
        cluster: where they are.
        pp_size: P.
        batches: in this order.
        mappings: of ranks to hosts.
        results: the file to which rank 0 adds a row per line.
    """

    cluster: Cluster
    pp_size: int
    batches: tuple[Batch, ...]
    mappings: tuple[Mapping, ...]
    results: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Job":
        """What `as_dict` made, after JSON."""
        names = data["cluster"]
        return cls(
            Cluster(names["switch"], tuple(names["hosts"])),
            data["pp_size"],
            tuple(Batch(b["size"], b["steps"], tuple(b["rates"])) for b in data["batches"]),
            tuple(Mapping(name) for name in data["mappings"]),
            data["results"],
        )


def rate_name(mbit: float | None) -> str:
    """For tables."""
    return "unlimited" if mbit is None else f"{mbit:g} Mbit/s"

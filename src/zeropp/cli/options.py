"""Options that several verbs share: which schedule, and for which costs."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from zeropp.costs import Costs
from zeropp.generate import generate
from zeropp.ir import Placement, Program, Schedule, Shape, parse


@dataclass(frozen=True)
class Made:
    """A schedule by name and size, or in a file."""

    name: tyro.conf.Positional[str]
    """Name of the schedule (see `zeropp schedules`); for show and simulate also a file."""
    pp: int = 4
    """P, ranks in the pipeline."""
    chunks: int = 1
    """V, stages per rank."""
    microbatches: int = 8
    """B, micro-batches per step."""
    unit_size: int | None = None
    """U, micro-batches in a scheduling unit."""
    seam: str | None = None
    """What happens between units of zeropp: carry (default) or drain."""
    slots: int | None = None
    """Most activations, one chunk of one micro-batch each, that a rank may hold."""
    costs: str = "1,1,1"
    """Durations F,B,W of one micro-batch through a whole rank; each chunk takes 1/V."""
    p2p: float = 0.0
    """Latency of one hop, in the same unit."""

    def schedule(self) -> Schedule:
        """The named schedule, made for these costs."""
        return generate(
            self.name,
            self.pp,
            self.chunks,
            self.microbatches,
            unit_size=self.unit_size,
            seam=self.seam,
            slots=self.slots,
            costs=self.costs_of(Placement(Shape.LOOP, self.pp, self.chunks)),
        )

    def subject(self) -> Schedule | Program:
        """The file's content if `name` is one, else the named schedule."""
        return read(Path(self.name)) if Path(self.name).is_file() else self.schedule()

    def costs_of(self, placement: Placement) -> Costs:
        """These costs over the P x V equal stages of `placement`."""
        try:
            forward, backward, weight = map(float, self.costs.split(","))
        except ValueError:
            raise ValueError(
                f"costs must be three numbers F,B,W such as 1,1,0.7; got {self.costs!r}"
            ) from None
        sizes = placement.pp_size, placement.num_chunks
        return Costs.uniform(*sizes, forward, backward, weight, latency=self.p2p)


def read(path: Path) -> Schedule | Program:
    """A schedule or program file.

    Raises:
        ValueError: unreadable, or not understood.
    """
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"file: cannot read {path}: {error}") from error
    except ValueError as error:
        raise ValueError(f"file: {path}: {error}") from error

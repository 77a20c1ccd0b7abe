"""Options that several verbs share: which schedules, for which costs, lowered how."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import tyro

from zeropp.cli.verb import Verb
from zeropp.costs import Costs
from zeropp.generate import GENERATORS, Budget, generate
from zeropp.ir import Order, Placement, Program, Schedule, Shape, parse
from zeropp.program.lowering import lower
from zeropp.simulate import Report, simulate


@dataclass(frozen=True)
class Made(Order, Verb):
    """A schedule by name, knobs and size, or in a file; and how it becomes a program."""

    schedule: tyro.conf.Positional[str] = tyro.MISSING
    """Name of the schedule (see `zeropp schedules`); for show and simulate also a file."""
    pp: int = 4
    """P, ranks in the pipeline."""
    chunks: int = 1
    """V, stages per rank."""
    microbatches: int = 8
    """B, micro-batches per step."""
    budget: float | None = None
    """For --slots auto, bytes for the activations of a rank."""
    slot_bytes: float = 1.0
    """Bytes of one slot: what a chunk holds of a micro-batch from F until W."""
    costs: str = "1,1,1"
    """Durations F,B,W of one micro-batch through a whole rank; each chunk takes 1/V."""
    p2p: float = 0.0
    """Latency of one hop, in the same unit."""
    shard: str | None = None
    """Gather and reduce per unit, step or microbatch; without it nothing is sharded."""
    max_resident: int = 2
    """For --shard unit, most stages of a rank that are gathered at once."""
    prefetch: int = 1
    """How many compute actions before its first use a gather is issued."""
    recv_ahead: int = 1
    """At the latest how many compute actions before its use a receive is posted."""

    def made(self) -> Schedule:
        """The named schedule, made for these costs."""
        return generate(
            self.order,
            self.pp,
            self.chunks,
            self.microbatches,
            costs=self.costs_of(Placement(Shape.LOOP, self.pp, self.chunks)),
            budget=None if self.budget is None else Budget(self.budget, self.slot_bytes),
        )

    def lowered(self, schedule: Schedule) -> Program:
        """The schedule as a program, by these options."""
        return lower(
            schedule,
            self.shard,
            max_resident=self.max_resident,
            prefetch=self.prefetch,
            recv_ahead=self.recv_ahead,
        )

    def subject(self) -> Schedule | Program:
        """The named schedule, or else the content of the file."""
        known = self.schedule in GENERATORS or not Path(self.schedule).is_file()
        return self.made() if known else read(Path(self.schedule))

    def costs_of(self, placement: Placement, **more: Any) -> Costs:
        """These costs, and `more`, over the P x V equal stages of `placement`."""
        try:
            forward, backward, weight = map(float, self.costs.split(","))
        except ValueError:
            raise ValueError(
                f"costs must be three numbers F,B,W such as 1,1,0.7; got {self.costs!r}"
            ) from None
        sizes = placement.pp_size, placement.num_chunks
        return Costs.uniform(*sizes, forward, backward, weight, latency=self.p2p, **more)


@dataclass(frozen=True)
class Simulated(Made):
    """One schedule, lowered and simulated, or several."""

    schedule: tyro.conf.Positional[str] = "zeropp"
    """Name of the schedule (see `zeropp schedules`), or a file."""
    gather: float = 0.0
    """Time to gather one stage's parameters, in the unit of the costs."""
    reduce: float = 0.0
    """Time to reduce one stage's gradients."""
    transfer: float = 0.0
    """How long one message keeps its channel busy; the latency of the hop comes on top."""
    host: float = 0.0
    """How long a rank computes nothing because it sends a message or posts a receive."""
    compare: str | None = None
    """Instead of one schedule, these side by side: NAME,NAME,... or all."""

    def reports(self) -> list[Report]:
        """Simulate the schedule or file, or the schedules to compare."""
        if self.compare is None:
            return [self.report()]
        names = list(GENERATORS) if self.compare == "all" else self.compare.split(",")
        return [wanted.report() for wanted in map(self.named, names)]

    def report(self) -> Report:
        """Simulate the schedule or file."""
        subject = self.subject()
        if not isinstance(subject, Program):
            subject = self.lowered(subject)
        more = {name: getattr(self, name) for name in ("gather", "reduce", "transfer", "host")}
        return simulate(subject, self.costs_of(subject.placement, **more))

    def named(self, name: str) -> Self:
        """The same for another schedule, without the knobs and chunks that it does not have.

        Times of collectives are those of a stage of `chunks`, and follow the stage's size.
        """
        if name not in GENERATORS:
            raise ValueError(
                f"compare: unknown schedule {name!r}; choose of {', '.join(GENERATORS)}"
            )
        generator = GENERATORS[name]
        chunks = self.chunks
        if generator.chunks is not None and chunks not in generator.chunks:
            chunks = max(generator.chunks)
        knobs = {k: None for k in ("unit_size", "seam", "slots") if k not in generator.options}
        if "slots" in knobs:
            knobs["budget"] = None
        share = self.chunks / chunks  # a stage of another size gathers and reduces more or less
        traffic = {"gather": self.gather * share, "reduce": self.reduce * share}
        return replace(self, schedule=name, chunks=chunks, **traffic, **knobs)  # type: ignore[arg-type]


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

"""`zeropp schedules`, `generate` and `verify`: make schedules and prove them, without torch."""

import sys
from collections.abc import Container
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from zeropp.cli.verb import Verb
from zeropp.costs import Costs
from zeropp.generate import GENERATORS, Budget, generate
from zeropp.ir import (
    Order,
    Placement,
    Program,
    Recompute,
    Schedule,
    Shape,
    format_program,
    format_schedule,
    parse,
)
from zeropp.program import Limits, Policy, lower, require_valid, verify

_OF_PROGRAMS = {"shard", "max_resident", "prefetch", "recv_ahead", "split", "recompute"}


@dataclass(frozen=True)
class Schedules(Verb):
    """List the schedules."""

    def perform(self) -> int:
        """List them."""
        for name, generator in GENERATORS.items():
            knobs = f"  [{', '.join(sorted(generator.options))}]" if generator.options else ""
            print(f"{name:18} {generator.summary}{knobs}")
        return 0


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
class Generate(Made):
    """Write a schedule, or the program made of it, as text."""

    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """File to write; without it, standard output."""
    program: bool = False
    """Write the program, with messages and, by --shard, collectives: `zeropp train` takes it."""
    split: tuple[int, ...] | None = None
    """With --program, blocks in each stage."""
    recompute: Literal["none", "selective", "full"] | None = None
    """With --program, what of a block is run again in its B."""

    def perform(self) -> int:
        """Write it."""
        text = self.text()
        if self.output is None:
            sys.stdout.write(text)
        elif not self.output.parent.is_dir():
            raise ValueError(f"output: there is no folder {self.output.parent}")
        else:
            self.output.write_text(text, encoding="utf-8")
        return 0

    def text(self) -> str:
        """What is written."""
        if not self.program:
            self._refuse(_OF_PROGRAMS, "of a program; add --program")
            return format_schedule(self.made())
        if self.shard != Policy.UNIT:
            self._refuse({"max_resident"}, "for gathers per unit; add --shard unit")
        if self.shard not in (Policy.UNIT, Policy.STEP):
            self._refuse({"prefetch"}, "for gathers ahead; add --shard unit or --shard step")
        again = None if self.recompute is None else Recompute(self.recompute)
        whole = replace(self.lowered(self.made()), split=self.split, recompute=again)
        return format_program(require_valid(whole))

    def _refuse(self, names: Container[str], why: str) -> None:
        """Refuse options that would be ignored, where they are given."""
        for field in fields(self):
            if field.name in names and getattr(self, field.name) != field.default:
                raise ValueError(f"{field.name} is {why}, or leave it out")


@dataclass(frozen=True)
class Verify(Verb):
    """Check a schedule or program file; exit status 1 and the reasons if it is not sound."""

    file: tyro.conf.Positional[Path]
    """What `zeropp generate -o` wrote."""
    slots: int | None = None
    """Most activations, one chunk of one micro-batch each, on any rank."""

    def perform(self) -> int:
        """Check the file, and what a schedule is lowered to."""
        subject, limits = read(self.file), Limits(slots=self.slots)
        found = verify(subject, limits)
        if not found and isinstance(subject, Schedule):
            found = verify(lower(subject), limits)
        print("\n".join(map(str, found)) or f"{self.file}: sound")
        return 1 if found else 0


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

"""`zeropp schedules`, `generate` and `verify`: make schedules and prove them, without torch."""

import os
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
)
from zeropp.ir.files import check_output, write_text
from zeropp.ir.numbers import Amount, Count, Positive, Size
from zeropp.program import Policy, lower, require_valid, verify, verify_within, warnings
from zeropp.torch.text import format_csv, read

_OF_SCHEDULES = {field.name for field in fields(Order)} - {"schedule"}
_OF_SCHEDULES |= {"pp", "chunks", "microbatches", "budget", "slot_bytes"}
_OF_PROGRAMS = {"shard", "max_resident", "prefetch", "split", "recompute"}


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
    """Name of the schedule (see `zeropp schedules`), or a file."""
    pp: Size = 4
    """P, ranks in the pipeline."""
    chunks: Size = 1
    """V, stages per rank."""
    microbatches: Size = 8
    """B, micro-batches per step."""
    budget: Positive | None = None
    """For --slots auto, bytes for the activations of a rank."""
    slot_bytes: Positive = 1.0
    """Bytes of one slot: what a chunk holds of a micro-batch from F until W."""
    costs: str = "1,1,1"
    """Durations F,B,W of one micro-batch through a whole rank; each chunk takes 1/V."""
    p2p: Amount = 0.0
    """Latency of one hop, in the same unit."""
    shard: str | None = None
    """Gather and reduce per unit, step or microbatch; without it nothing is sharded."""
    max_resident: Size = 2
    """For --shard unit, most stages of a rank that are gathered at once."""
    prefetch: Count | None = None
    """Most compute actions before its first use that a gather is issued; without it, as soon as
    there is room."""

    def made(self) -> Schedule:
        """The named schedule, made for these costs."""
        if self.budget is None:
            self.refuse({"slot_bytes"}, "for a budget; add --budget")
        return generate(
            self.order,
            self.pp,
            self.chunks,
            self.microbatches,
            costs=self.costs_of(Placement(Shape.LOOP, self.pp, self.chunks)),
            budget=None if self.budget is None else Budget(self.budget, self.slot_bytes),
            max_resident=self.max_resident if self.shard == Policy.UNIT else None,
        )

    def lowered(self, schedule: Schedule) -> Program:
        """The schedule as a program, by these options."""
        if self.shard != Policy.UNIT:
            self.refuse({"max_resident"}, "for gathers per unit; add --shard unit")
        if self.shard not in (Policy.UNIT, Policy.STEP):
            self.refuse({"prefetch"}, "for gathers ahead; add --shard unit or --shard step")
        return lower(
            schedule,
            self.shard,
            max_resident=self.max_resident,
            prefetch=self.prefetch,
            expected=self.costs_of(schedule.placement).expected(schedule),
        )

    def subject(self) -> Schedule | Program:
        """The named schedule, or else the content of the file."""
        known = self.schedule in GENERATORS or not os.path.exists(self.schedule)
        if known:
            return self.made()
        self.refuse(_OF_SCHEDULES, "for a schedule by name, and the file says its own")
        subject = _read_sound(Path(self.schedule))
        if isinstance(subject, Program):
            self.refuse(_OF_PROGRAMS, "for a schedule, and the file holds a program")
        return subject

    def refuse(self, names: Container[str], why: str) -> None:
        """Refuse options that would be ignored, where they are given."""
        for field in fields(self):
            if field.name in names and getattr(self, field.name) != field.default:
                raise ValueError(f"{field.name} is {why}, or leave it out")

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
    """Write a schedule, or the program made of it, as text; also of a file."""

    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """File to write; without it, standard output."""
    program: bool = False
    """Write the program, with messages and, by --shard, collectives: `zeropp train` takes it."""
    split: tuple[int, ...] | None = None
    """With --program, blocks in each stage."""
    recompute: Literal["none", "selective", "full"] | None = None
    """With --program, what of a block is run again in its B."""
    format: Literal["zeropp", "torch-csv"] = "zeropp"
    """Our text, or the compute actions as the runtime of torch.distributed.pipelining loads them;
    a file that ends in .csv is read as such."""

    def perform(self) -> int:
        """Write it."""
        if self.output is not None:
            check_output("output", self.output)
        text = self.text()
        if self.output is None:
            sys.stdout.write(text)
        else:
            write_text("output", self.output, text)
        return 0

    def text(self) -> str:
        """What is written."""
        subject = self.subject()
        if self.format == "torch-csv":
            self.refuse({"program", *_OF_PROGRAMS}, "of a program, which torch makes of the order")
            return format_csv(subject.schedule if isinstance(subject, Program) else subject)
        if isinstance(subject, Program):
            return format_program(subject)
        if not self.program:
            self.refuse(_OF_PROGRAMS, "of a program; add --program")
            return format_schedule(subject)
        again = None if self.recompute is None else Recompute(self.recompute)
        whole = replace(self.lowered(subject), split=self.split, recompute=again)
        return format_program(require_valid(whole))


@dataclass(frozen=True)
class Verify(Verb):
    """Check a schedule or program file; exit status 1 and the reasons if it is not sound.

    Of a sound one, warnings say what it does without need, and whether it hangs where sends block
    and receives hold their rank at once.
    """

    file: tyro.conf.Positional[Path]
    """What `zeropp generate -o` wrote."""
    slots: Count | None = None
    """Most activations, one chunk of one micro-batch each, on any rank."""

    def perform(self) -> int:
        """Check the file, and what a schedule is lowered to."""
        subject = read("file", self.file)
        found = verify_within(subject, self.slots)
        if not found and isinstance(subject, Schedule):
            subject = lower(subject)
            found = verify_within(subject, self.slots)
        print("\n".join(map(str, found)) or f"{self.file}: sound")
        if isinstance(subject, Program) and not found:
            for warning in warnings(subject):
                print(f"warning: {warning}")
        return 1 if found else 0


def _read_sound(path: Path) -> Schedule | Program:
    """A schedule or program file; ValueError, with the first reason, if it breaks a rule."""
    subject = read("file", path)
    if found := verify(subject):
        line = str(found[0]).splitlines()[0]
        raise ValueError(f"file: {path}: {line}; `zeropp verify` says more")
    return subject

"""Scenarios: a schedule by name, knobs, sizes and costs, or in a file, made, lowered, simulated.

Their fields are the options of the command line and of `zeropp explore`.
"""

import os
from collections.abc import Container
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Self

from zeropp.costs import Costs
from zeropp.generate import GENERATORS, Budget, Request, generate
from zeropp.ir import Order, Placement, Program, Schedule, Shape
from zeropp.ir.numbers import Amount, Count, Positive, Size
from zeropp.program import Policy, lower, verify
from zeropp.simulate import Report, simulate
from zeropp.torch.text import read

OF_SCHEDULES = {field.name for field in fields(Order)} - {"schedule"}
OF_SCHEDULES |= {"pp", "chunks", "microbatches", "budget", "slot_bytes"}
OF_PROGRAMS = {"shard", "max_resident", "prefetch", "split", "recompute"}


@dataclass(frozen=True)
class Made(Order):
    """A schedule by name, knobs and size, or in a file; and how it becomes a program."""

    schedule: str = "zeropp"
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
    """Durations F,B,W of one micro-batch through a whole rank, of which each chunk takes 1/V; or of
    every stage its own, after semicolons."""
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
        self.refuse(OF_SCHEDULES, "for a schedule by name, and the file says its own")
        return self.sound(self.schedule, read("file", Path(self.schedule)))

    def sound(self, name: str, subject: Schedule | Program) -> Schedule | Program:
        """What the file of that name holds; ValueError, with the first reason, if it breaks a
        rule.
        """
        if found := verify(subject):
            line = str(found[0]).splitlines()[0]
            raise ValueError(f"file: {name}: {line}; `zeropp verify` says more")
        if isinstance(subject, Program):
            self.refuse(OF_PROGRAMS, "for a schedule, and the file holds a program")
        return subject

    def refuse(self, names: Container[str], why: str) -> None:
        """Refuse options that would be ignored, where they are given."""
        for field in fields(self):
            if field.name in names and getattr(self, field.name) != field.default:
                raise ValueError(f"{field.name} is {why}, or leave it out")

    def costs_of(self, placement: Placement, **more: Any) -> Costs:
        """These costs, and `more`, over the P x V equal stages of `placement`."""
        sizes = placement.pp_size, placement.num_chunks
        stages = [_times(one) for one in self.costs.split(";")]
        if len(stages) == 1:
            return Costs.uniform(*sizes, *stages[0], latency=self.p2p, **more)
        if len(stages) != placement.num_stages:
            raise ValueError(
                f"costs must list one F,B,W for all ranks, or one for each of the "
                f"{placement.num_stages} stages (pp x chunks), got {len(stages)}"
            )
        forward, backward, weight = zip(*stages, strict=True)
        return Costs(forward, backward, weight, self.p2p, **more)


@dataclass(frozen=True)
class Simulated(Made):
    """One schedule, lowered and simulated, or several."""

    gather: Amount = 0.0
    """Time to gather one stage's parameters, in the unit of the costs."""
    reduce: Amount = 0.0
    """Time to reduce one stage's gradients."""
    transfer: Amount = 0.0
    """How long one message keeps its channel busy; the latency of the hop comes on top."""
    host: Amount = 0.0
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
        sent = {"transfer": self.transfer, "host": self.host}
        return simulate(subject, self.costs_of(subject.placement, **sent))

    def costs_of(self, placement: Placement, **more: Any) -> Costs:
        """With the times of collectives, by which orders are made too."""
        return super().costs_of(placement, gather=self.gather, reduce=self.reduce, **more)

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
        knobs: dict[str, float | None] = {
            k: None for k in ("unit_size", "seam", "slots") if k not in generator.options
        }
        if "slots" in knobs:
            knobs |= {"budget": None, "slot_bytes": 1.0}
        share = self.chunks / chunks  # a stage of another size gathers and reduces more or less
        traffic = {"gather": self.gather * share, "reduce": self.reduce * share}
        return replace(self, schedule=name, chunks=chunks, **traffic, **knobs)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Limited(Simulated):
    """The same, held against a limit of memory, for which peers are made."""

    limit: Positive | None = None
    """With --compare: most activations on a rank, in micro-batches through a whole rank."""

    def named(self, name: str) -> Self:
        """Another schedule; one that has slots is made for the limit."""
        other, generator = super().named(name), GENERATORS[name]
        if "slots" not in generator.options or self.limit is None:
            return other
        if other.slots is not None or other.budget is not None or other.seam == "drain":
            return other
        enough = generator.enough(Request(other.pp, other.chunks, other.microbatches))
        slots = max(int(self.limit * other.chunks + 1e-9), enough)
        unit = other.unit_size or "auto" if "unit_size" in generator.options else None
        return replace(other, unit_size=unit, slots=slots)

    def fits(self, report: Report) -> bool:
        """Whether every rank stays within the limit."""
        return self.limit is None or report.peak_microbatches <= self.limit

    def best(self, reports: list[Report]) -> Report | None:
        """The fastest that fits, and of equals that with the least memory."""
        fastest = attrgetter("makespan", "peak_microbatches")
        return min(filter(self.fits, reports), key=fastest, default=None)


def held(report: Report) -> tuple[tuple[tuple[float, float], ...], ...]:
    """What every rank holds, as (time, micro-batches through a whole rank) after every change: one
    slot counts as 1/V, so that schedules of other V compare.
    """
    V = report.num_chunks
    return tuple(tuple((time, slots / V) for time, slots in rank.curve) for rank in report.memory)


def rows_of(report: Report) -> list[tuple[str, str]]:
    """The figures to read, each with its name; times in the unit of the costs."""
    over, values = report.makespan / report.floor - 1, report.as_dict()
    rows = [
        ("makespan", f"{report.makespan:.4g}"),
        ("floor", f"{report.floor:.4g} ({over:+.2%} over it)"),
        ("bubble ratio = idle / (P x makespan)", f"{report.bubble_ratio:.2%}"),
        *((f"  idle, all ranks: {c}", f"{time:.4g}") for c, time in report.idle.items() if time),
    ]
    for name in ("units", "peak_slots", "gathers", "reduces", "messages"):
        rows.append((name.replace("_", " "), " ".join(map(str, values[name]))))
    return rows


def _times(text: str) -> tuple[float, float, float]:
    try:
        forward, backward, weight = map(float, text.split(","))
    except ValueError:
        raise ValueError(
            f"costs must be three numbers F,B,W such as 1,1,0.7; got {text!r}"
        ) from None
    return forward, backward, weight

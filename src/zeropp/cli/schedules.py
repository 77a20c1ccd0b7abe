"""`zeropp schedules`, `generate` and `verify`: make schedules and prove them, without torch."""

import sys
from collections.abc import Container
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from zeropp.cli.options import Made, read
from zeropp.cli.verb import Verb
from zeropp.generate import GENERATORS
from zeropp.ir import Recompute, Schedule, format_program, format_schedule
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

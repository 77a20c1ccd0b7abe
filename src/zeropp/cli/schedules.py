"""`zeropp schedules`, `generate` and `verify`: make schedules and prove them, without torch."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from zeropp.cli.verb import Verb
from zeropp.generate import GENERATORS
from zeropp.ir import Program, Recompute, Schedule, format_program, format_schedule
from zeropp.ir.files import check_output, write_text
from zeropp.ir.numbers import Count
from zeropp.program import lower, require_valid, verify_within, warnings
from zeropp.scenario import OF_PROGRAMS, Made
from zeropp.torch.text import format_csv, read


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
class Generate(Made, Verb):
    """Write a schedule, or the program made of it, as text; also of a file."""

    schedule: tyro.conf.Positional[str] = tyro.MISSING
    """Name of the schedule (see `zeropp schedules`), or a file."""
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
            self.refuse({"program", *OF_PROGRAMS}, "of a program, which torch makes of the order")
            return format_csv(subject.schedule if isinstance(subject, Program) else subject)
        if isinstance(subject, Program):
            return format_program(subject)
        if not self.program:
            self.refuse(OF_PROGRAMS, "of a program; add --program")
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

"""`zeropp schedules`, `generate` and `verify`: make schedules and prove them, without torch."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from zeropp.cli.options import Made, read
from zeropp.generate import GENERATORS
from zeropp.ir import Schedule, format_schedule
from zeropp.program.lowering import lower
from zeropp.program.verifier import Limits, verify


@dataclass(frozen=True)
class Schedules:
    """List the schedules."""


@dataclass(frozen=True)
class Generate(Made):
    """Write a schedule as text."""

    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """File to write; without it, standard output."""


@dataclass(frozen=True)
class Verify:
    """Check a schedule or program file; exit status 1 and the reasons if it is not sound."""

    file: tyro.conf.Positional[Path]
    """What `zeropp generate -o` wrote."""
    slots: int | None = None
    """Most activations, one chunk of one micro-batch each, on any rank."""


def run_schedules(arguments: list[str]) -> int:
    """List the schedules."""
    tyro.cli(Schedules, args=arguments, prog="zeropp schedules")
    for name, generator in GENERATORS.items():
        knobs = f"  [{', '.join(sorted(generator.options))}]" if generator.options else ""
        print(f"{name:18} {generator.summary}{knobs}")
    return 0


def run_generate(arguments: list[str]) -> int:
    """Write a schedule as text."""
    made = tyro.cli(Generate, args=arguments, prog="zeropp generate")
    text = format_schedule(made.schedule())
    if made.output is None:
        sys.stdout.write(text)
    else:
        if not made.output.parent.is_dir():
            raise ValueError(f"output: there is no folder {made.output.parent}")
        made.output.write_text(text, encoding="utf-8")
    return 0


def run_verify(arguments: list[str]) -> int:
    """Check a file."""
    wanted = tyro.cli(Verify, args=arguments, prog="zeropp verify")
    subject, limits = read(wanted.file), Limits(slots=wanted.slots)
    found = verify(subject, limits)
    if not found and isinstance(subject, Schedule):
        found = verify(lower(subject), limits)
    for violation in found:
        print(violation)
    if not found:
        print(f"{wanted.file}: sound")
    return 1 if found else 0

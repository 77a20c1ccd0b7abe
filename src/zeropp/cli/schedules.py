"""`zeropp schedules`, `generate`, `verify` and `show`: schedules at work, without torch."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from zeropp.costs import Costs
from zeropp.generate import GENERATORS, generate
from zeropp.ir import Program, Schedule, Timeline, evaluate, format_schedule, parse
from zeropp.lower import lower
from zeropp.show import check_output, draw_text, show
from zeropp.verify import Limits, verify


@dataclass(frozen=True)
class Made:
    """A schedule by name and size."""

    name: tyro.conf.Positional[str]
    """Name of the schedule (see `zeropp schedules`), or for verify and show a file."""
    pp: int = 4
    """P, ranks in the pipeline."""
    chunks: int = 1
    """V, stages per rank."""
    microbatches: int = 8
    """B, micro-batches per step."""
    unit_size: int | None = None
    """U, micro-batches in a scheduling unit."""
    seam: str | None = None
    """What happens between units."""

    def schedule(self) -> Schedule:
        """The schedule."""
        return generate(
            self.name,
            self.pp,
            self.chunks,
            self.microbatches,
            unit_size=self.unit_size,
            seam=self.seam,
        )


@dataclass(frozen=True)
class Schedules:
    """List the schedules."""


@dataclass(frozen=True)
class Generate(Made):
    """Write a schedule as text."""

    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """File to write; without it, standard output."""


@dataclass(frozen=True)
class Show(Made):
    """Draw a schedule's timeline."""

    costs: str = "1,1,1"
    """Durations F,B,W of one micro-batch through a whole rank."""
    p2p: float = 0.0
    """Latency of one hop, in the same unit."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """File ending in .txt, .svg, .png or .json; without it, text on standard output."""


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
    subject, limits = _read(wanted.file), Limits(slots=wanted.slots)
    found = verify(subject, limits)
    if not found and isinstance(subject, Schedule):
        found = verify(lower(subject), limits)
    for violation in found:
        print(violation)
    if not found:
        print(f"{wanted.file}: sound")
    return 1 if found else 0


def run_show(arguments: list[str]) -> int:
    """Draw a timeline."""
    wanted = tyro.cli(Show, args=arguments, prog="zeropp show")
    if wanted.output is not None:
        check_output(wanted.output)
    timeline = _timeline(wanted)
    if wanted.output is None:
        print(draw_text(timeline))
    else:
        show([timeline], wanted.output)
    return 0


def _timeline(wanted: Show) -> Timeline:
    if Path(wanted.name).is_file():
        subject = _read(Path(wanted.name))
        schedule = subject.schedule if isinstance(subject, Program) else subject
    else:
        schedule = wanted.schedule()
    if not wanted.p2p >= 0:
        raise ValueError(f"p2p must be 0 or more, got {wanted.p2p}")
    sizes = schedule.placement.pp_size, schedule.placement.num_chunks
    costs = Costs.uniform(*sizes, *_three(wanted.costs), latency=wanted.p2p)
    return evaluate(schedule, costs.duration, costs.latency)


def _three(text: str) -> tuple[float, float, float]:
    try:
        forward, backward, weight = map(float, text.split(","))
    except ValueError:
        raise ValueError(
            f"costs must be three numbers F,B,W such as 1,1,0.7; got {text!r}"
        ) from None
    return forward, backward, weight


def _read(path: Path) -> Schedule | Program:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"file: cannot read {path}: {error}") from error
    except ValueError as error:
        raise ValueError(f"file: {path}: {error}") from error

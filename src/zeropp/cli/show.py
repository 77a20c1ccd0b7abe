"""`zeropp show`: draw a schedule's timeline."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from zeropp.cli.options import Made
from zeropp.costs import floor
from zeropp.ir import Program, evaluate
from zeropp.show import check_output, draw_text, show


@dataclass(frozen=True)
class Show(Made):
    """Draw a schedule's timeline."""

    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """File ending in .txt, .svg, .png or .json; without it, text on standard output."""


def run_show(arguments: list[str]) -> int:
    """Draw a timeline."""
    wanted = tyro.cli(Show, args=arguments, prog="zeropp show")
    if wanted.output is not None:
        check_output(wanted.output)
    subject = wanted.subject()
    schedule = subject.schedule if isinstance(subject, Program) else subject
    costs = wanted.costs_of(schedule.placement)
    timeline = evaluate(schedule, costs.duration, costs.latency)
    if wanted.output is None:
        print(draw_text(timeline))
    else:
        bound = floor(schedule.placement, schedule.num_microbatches, costs)
        show([timeline], wanted.output, bound)
    return 0

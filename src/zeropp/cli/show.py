"""`zeropp show`: draw a schedule's simulated timeline and memory, or several on one time axis."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from zeropp.cli.options import Simulated
from zeropp.show import MemoryCurves, check_output, draw_text, show
from zeropp.simulate import Report


@dataclass(frozen=True)
class Show(Simulated):
    """Draw a schedule's timeline as simulated, with its communication and memory."""

    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """File ending in .txt, .svg, .png or .json; without it, text on standard output."""


def run_show(arguments: list[str]) -> int:
    """Draw timelines."""
    wanted = tyro.cli(Show, args=arguments, prog="zeropp show")
    if wanted.output is not None:
        check_output(wanted.output)
    reports = wanted.reports()
    timelines = [report.timeline for report in reports]
    if wanted.output is None:
        print("\n".join(map(draw_text, timelines)))
    elif all(report.program.schedule.trains for report in reports):
        floors = [report.floor for report in reports]
        show(timelines, wanted.output, floors, activations_of(reports))
    else:  # forward only: nothing is held, and the floor, which counts the backward, is not its own
        show(timelines, wanted.output)
    return 0


def activations_of(reports: Sequence[Report]) -> MemoryCurves:
    """What every rank holds, in micro-batches, so that schedules of other V compare.

    One slot counts as 1/V.
    """
    curves = tuple(
        tuple(
            tuple((time, slots / report.program.placement.num_chunks) for time, slots in rank.curve)
            for rank in report.memory
        )
        for report in reports
    )
    return MemoryCurves(curves, "activations held, in micro-batches through a whole rank")

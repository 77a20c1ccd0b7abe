"""`zeropp simulate` and `show`: one schedule, or several side by side, in figures or drawn."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Annotated

import tyro

from zeropp.cli.verb import Verb, print_table
from zeropp.scenario import Limited, Simulated, held, rows_of
from zeropp.show import MemoryCurves, check_output, draw_text, show
from zeropp.simulate import Report

_HELD = "activations held, in micro-batches through a whole rank"
_TITLE = "bubble ratio = idle / (P x makespan); activations in micro-batches"
_COLUMNS = ("schedule", "V", "makespan", "bubble ratio", "peak activations", "gathers", "reduces")


@dataclass(frozen=True)
class Show(Simulated, Verb):
    """Draw a schedule's timeline as simulated, with its communication and memory."""

    schedule: tyro.conf.Positional[str] = "zeropp"
    """Name of the schedule (see `zeropp schedules`), or a file."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """File ending in .txt, .svg, .png or .json; without it, text on standard output."""

    def perform(self) -> int:
        """Draw timelines."""
        if self.output is not None:
            check_output(self.output)
        reports = self.reports()
        timelines = [report.timeline for report in reports]
        if self.output is None:
            print("\n".join(map(draw_text, timelines)))
        elif all(report.program.schedule.trains for report in reports):
            curves = MemoryCurves(tuple(map(held, reports)), _HELD)
            show(timelines, self.output, [report.floor for report in reports], curves)
        else:  # forward only: nothing is held, and the floor counts a backward
            show(timelines, self.output)
        return 0


@dataclass(frozen=True)
class Simulate(Limited, Verb):
    """Simulate a schedule with its communication."""

    schedule: tyro.conf.Positional[str] = "zeropp"
    """Name of the schedule (see `zeropp schedules`), or a file."""
    json: bool = False
    """Print JSON."""

    def perform(self) -> int:
        """Simulate, and print a table or JSON."""
        if self.limit is not None and self.compare is None:
            raise ValueError("limit goes with compare; for one schedule use slots")
        reports = self.reports()
        best = self.best(reports)
        rows = [report.as_dict() for report in reports] if self.json else []
        if self.json and self.compare is None:
            print(json.dumps(rows[0]))
        elif self.json:
            print(json.dumps({"recommended": best.name if best else None, "rows": rows}))
        elif self.compare is None:
            _print_report(reports[0])
        else:
            self._print_comparison(reports, best)
        return 0

    def _print_comparison(self, reports: Sequence[Report], best: Report | None) -> None:
        ordered = sorted(reports, key=attrgetter("makespan"))
        styles = ["bold" if r is best else "" if self.fits(r) else "dim" for r in ordered]
        print_table(_TITLE, _COLUMNS, map(self._row, ordered), styles)
        print(self._recommendation(reports, best))

    def _row(self, report: Report) -> tuple[str, ...]:
        values = report.as_dict()
        return (
            report.name,
            str(report.num_chunks),
            f"{report.makespan:.4g}",
            f"{report.bubble_ratio:.1%}",
            f"{report.peak_microbatches:.4g}" + ("" if self.fits(report) else " too many"),
            str(max(values["gathers"])),
            str(max(values["reduces"])),
        )

    def _recommendation(self, reports: Sequence[Report], best: Report | None) -> str:
        if best is None:
            least = min(reports, key=attrgetter("peak_microbatches"))
            return (
                f"nothing fits {self.limit:g} micro-batches; {least.name} needs the least, "
                f"{least.peak_microbatches:g}"
            )
        within = "" if self.limit is None else f" within {self.limit:g} micro-batches' activations"
        return f"fastest{within}: {best.name}, {best.makespan:.4g}"


def _print_report(report: Report) -> None:
    title = f"{report.name}, in the unit of the costs"
    print_table(title, ("figure", "value"), rows_of(report))

"""`zeropp simulate`: time, memory and communication of one schedule, or of several side by side."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import tyro
from rich.console import Console
from rich.table import Table

from zeropp.cli.options import Simulated
from zeropp.generate import GENERATORS
from zeropp.simulate import Report


@dataclass(frozen=True)
class Simulate(Simulated):
    """Simulate a schedule with its communication."""

    limit: float | None = None
    """With --compare: most activations on a rank, in micro-batches through a whole rank."""
    json: bool = False
    """Print JSON."""

    def named(self, name: str) -> Self:
        """Another schedule; one that has slots is made for the limit."""
        other = super().named(name)
        if "slots" not in GENERATORS[name].options or self.limit is None:
            return other
        if other.slots is not None or other.budget is not None or other.seam == "drain":
            return other
        slots = int(max(self.limit, 1.0) * other.chunks + 1e-9)  # one micro-batch at least
        return replace(other, unit_size=other.unit_size or "auto", slots=slots)


def run_simulate(arguments: list[str]) -> int:
    """Simulate, and print a table or JSON."""
    wanted = tyro.cli(Simulate, args=arguments, prog="zeropp simulate")
    if wanted.compare is None:
        if wanted.limit is not None:
            raise ValueError("limit goes with compare; for one schedule use slots")
        report = wanted.report()
        _print_json(report.as_dict()) if wanted.json else _print_report(report)
        return 0
    if wanted.limit is not None and not wanted.limit > 0:
        raise ValueError(f"limit must be above 0, got {wanted.limit}")
    reports = wanted.reports()
    best = _best(reports, wanted.limit)
    if wanted.json:
        recommended = best.program.schedule.name if best else None
        _print_json({"recommended": recommended, "rows": [r.as_dict() for r in reports]})
    else:
        _print_comparison(reports, wanted.limit, best)
    return 0


def peak_microbatches(report: Report) -> float:
    """Peak activations of the worst rank, in micro-batches through a whole rank."""
    return max(report.peak_slots) / report.program.placement.num_chunks


def _best(reports: Sequence[Report], limit: float | None) -> Report | None:
    fitting = [r for r in reports if limit is None or peak_microbatches(r) <= limit]
    return min(fitting, key=lambda r: (r.makespan, peak_microbatches(r)), default=None)


def _print_json(value: object) -> None:
    print(json.dumps(value))


def _print_report(report: Report) -> None:
    table = Table(title=f"{report.program.schedule.name}, in the unit of the costs")
    table.add_column("figure")
    table.add_column("value", justify="right")
    over = report.makespan / report.floor - 1
    table.add_row("makespan", f"{report.makespan:.4g}")
    table.add_row("floor", f"{report.floor:.4g} ({over:+.2%} over it)")
    table.add_row("bubble ratio = idle / (P x makespan)", f"{report.bubble_ratio:.2%}")
    for cause, time in report.idle.items():
        if time:
            table.add_row(f"  idle, all ranks: {cause}", f"{time:.4g}")
    values = report.as_dict()
    for name in ("units", "peak_slots", "gathers", "reduces", "messages"):
        table.add_row(f"{name.replace('_', ' ')}", " ".join(map(str, values[name])))
    Console().print(table)


def _print_comparison(reports: Sequence[Report], limit: float | None, best: Report | None) -> None:
    columns = ("V", "makespan", "bubble ratio", "peak activations", "gathers", "reduces")
    table = Table(title="bubble ratio = idle / (P x makespan); activations in micro-batches")
    table.add_column("schedule", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    for report in sorted(reports, key=lambda r: r.makespan):
        fits = limit is None or peak_microbatches(report) <= limit
        values = report.as_dict()
        table.add_row(
            report.program.schedule.name,
            str(values["num_chunks"]),
            f"{report.makespan:.4g}",
            f"{report.bubble_ratio:.1%}",
            f"{peak_microbatches(report):.4g}" + ("" if fits else " too many"),
            str(max(values["gathers"])),
            str(max(values["reduces"])),
            style="bold" if report is best else "" if fits else "dim",
        )
    Console().print(table)
    print(_recommendation(reports, limit, best))


def _recommendation(reports: Sequence[Report], limit: float | None, best: Report | None) -> str:
    if best is None:
        least = min(reports, key=peak_microbatches)
        return (
            f"nothing fits {limit:g} micro-batches; {least.program.schedule.name} needs the "
            f"least, {peak_microbatches(least):g}"
        )
    within = "" if limit is None else f" within {limit:g} micro-batches' activations"
    return f"fastest{within}: {best.program.schedule.name}, {best.makespan:.4g}"

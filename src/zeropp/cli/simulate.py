"""`zeropp simulate` and `show`: one schedule, or several side by side, in figures or drawn."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Self

import tyro

from zeropp.cli.schedules import Made
from zeropp.cli.verb import print_table
from zeropp.costs import Costs
from zeropp.generate import GENERATORS, Request
from zeropp.ir import Placement, Program
from zeropp.ir.numbers import Amount, Positive
from zeropp.show import MemoryCurves, check_output, draw_text, show
from zeropp.simulate import Report, simulate

_TITLE = "bubble ratio = idle / (P x makespan); activations in micro-batches"
_COLUMNS = ("schedule", "V", "makespan", "bubble ratio", "peak activations", "gathers", "reduces")


@dataclass(frozen=True)
class Simulated(Made):
    """One schedule, lowered and simulated, or several."""

    schedule: tyro.conf.Positional[str] = "zeropp"
    """Name of the schedule (see `zeropp schedules`), or a file."""
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
class Show(Simulated):
    """Draw a schedule's timeline as simulated, with its communication and memory."""

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
            show(timelines, self.output, [report.floor for report in reports], _held(reports))
        else:  # forward only: nothing is held, and the floor counts a backward
            show(timelines, self.output)
        return 0


def _held(reports: Sequence[Report]) -> MemoryCurves:
    """What every rank holds; one slot counts as 1/V, so that schedules of other V compare."""
    curves = tuple(
        tuple(
            tuple((time, slots / report.num_chunks) for time, slots in rank.curve)
            for rank in report.memory
        )
        for report in reports
    )
    return MemoryCurves(curves, "activations held, in micro-batches through a whole rank")


@dataclass(frozen=True)
class Simulate(Simulated):
    """Simulate a schedule with its communication."""

    limit: Positive | None = None
    """With --compare: most activations on a rank, in micro-batches through a whole rank."""
    json: bool = False
    """Print JSON."""

    def perform(self) -> int:
        """Simulate, and print a table or JSON."""
        if self.limit is not None and self.compare is None:
            raise ValueError("limit goes with compare; for one schedule use slots")
        reports = self.reports()
        fastest = attrgetter("makespan", "peak_microbatches")
        best = min(filter(self._fits, reports), key=fastest, default=None)
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

    def _fits(self, report: Report) -> bool:
        return self.limit is None or report.peak_microbatches <= self.limit

    def _print_comparison(self, reports: Sequence[Report], best: Report | None) -> None:
        ordered = sorted(reports, key=attrgetter("makespan"))
        styles = ["bold" if r is best else "" if self._fits(r) else "dim" for r in ordered]
        print_table(_TITLE, _COLUMNS, map(self._row, ordered), styles)
        print(self._recommendation(reports, best))

    def _row(self, report: Report) -> tuple[str, ...]:
        values = report.as_dict()
        return (
            report.name,
            str(report.num_chunks),
            f"{report.makespan:.4g}",
            f"{report.bubble_ratio:.1%}",
            f"{report.peak_microbatches:.4g}" + ("" if self._fits(report) else " too many"),
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
    over, values = report.makespan / report.floor - 1, report.as_dict()
    rows = [
        ("makespan", f"{report.makespan:.4g}"),
        ("floor", f"{report.floor:.4g} ({over:+.2%} over it)"),
        ("bubble ratio = idle / (P x makespan)", f"{report.bubble_ratio:.2%}"),
        *((f"  idle, all ranks: {c}", f"{time:.4g}") for c, time in report.idle.items() if time),
    ]
    for name in ("units", "peak_slots", "gathers", "reduces", "messages"):
        rows.append((name.replace("_", " "), " ".join(map(str, values[name]))))
    print_table(f"{report.name}, in the unit of the costs", ("figure", "value"), rows)

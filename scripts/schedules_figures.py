"""Formulas of schedules as the page prints them, held against what is simulated."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from zeropp.costs import Costs
from zeropp.generate import GENERATORS, generate
from zeropp.ir import Kind, Order, Schedule, Timeline, evaluate
from zeropp.program.collectives import shard
from zeropp.program.lowering import lower
from zeropp.simulate import simulate

Times = tuple[float, float, float]  # F, B, W of one micro-batch through a whole rank

EQUAL: Times = (1, 1, 1)
SHORT_W: Times = (1, 1, 0.7)
UNEQUAL: Times = (1, 1.3, 0.9)
RESIDENT = (1, 2, 3)


class RefusedError(Exception):
    """The page would say something that is not so."""


class Size(NamedTuple):
    """P, V where the schedule takes it, and B."""

    P: int
    V: int
    B: int


TRAFFIC_SIZE = Size(8, 4, 32)
SIZES = (Size(4, 2, 16), Size(8, 2, 32), Size(16, 4, 64))


@dataclass(frozen=True)
class Formula:
    """Arithmetic over P, V, B, U, T_F, T_B, T_W, written in Python; products print without `*`."""

    python: str

    def __str__(self) -> str:
        return f"`{self.python.replace('*', '')}`"

    def value(self, schedule: Schedule, times: Times) -> float:
        """At the schedule's size."""
        sizes = {
            "P": schedule.placement.pp_size,
            "V": schedule.placement.num_chunks,
            "B": schedule.num_microbatches,
            "U": max(schedule.units),
        }
        durations = dict(zip(("T_F", "T_B", "T_W"), times, strict=True))
        functions = {"floor": math.floor, "min": min, "max": max, "__builtins__": {}}
        return float(eval(self.python, {**functions, **sizes, **durations}))


@dataclass(frozen=True)
class Row:
    """One line of the tables: a schedule with its knobs, and what is claimed of it.

    Attributes:
        label: how the page calls it.
        name: its generator.
        bubble: idle time of a rank per step, in forwards of one micro-batch through a whole rank.
        source: where the bubble's formula is published.
        peak: activations of the worst rank, in micro-batches through a whole rank.
        seam: of `zeropp`.
        unit: U / P, of `zeropp`.
        own_span: the bubble counts from a rank's own first start to its own last end.
        times: at which the bubble's formula holds.
        gathers: per rank with one resident stage, where there is a formula.
    """

    label: str
    name: str
    bubble: Formula
    source: str
    peak: Formula
    seam: str | None = None
    unit: int | None = None
    own_span: bool = False
    times: tuple[Times, ...] = (EQUAL, SHORT_W, UNEQUAL)
    gathers: Formula | None = None

    def chunks(self, most: int) -> int:
        """V: `most`, or the only one that the schedule takes."""
        allowed = GENERATORS[self.name].chunks
        return most if allowed is None else max(allowed)

    def schedule(self, P: int, V: int, B: int, times: Times = EQUAL) -> Schedule:
        """Made for this size and these times."""
        chunks = self.chunks(V)
        unit_size = self.unit * P if self.unit else None
        costs = Costs.uniform(P, chunks, *times)
        return generate(
            Order(self.name, unit_size=unit_size, seam=self.seam), P, chunks, B, costs=costs
        )


class TimeAndMemory(NamedTuple):
    """Simulated at equal times: idle time per rank, idle / (P x makespan), peak micro-batches."""

    bubble: float
    ratio: float
    peak: float


class Traffic(NamedTuple):
    """Per rank and step: (fewest, most) gathers for 1, 2, 3 resident stages, and reduces."""

    gathers: tuple[tuple[int, int], ...]
    reduces: int


def time_and_memory(row: Row, size: Size) -> TimeAndMemory:
    """Simulate one schedule.

    Raises:
        RefusedError: a formula gives another number.
    """
    for times in row.times:
        schedule = row.schedule(*size, times)
        expected = row.bubble.value(schedule, times)
        _hold(row, f"bubble {row.bubble}", schedule, times, expected, _bubble(row, schedule, times))
    schedule = row.schedule(*size)
    report = simulate(lower(schedule), _costs(schedule, EQUAL))
    chunks = schedule.placement.num_chunks
    peak = max(report.peak_slots) / chunks
    _hold(row, f"peak {row.peak}", schedule, EQUAL, row.peak.value(schedule, EQUAL), peak)
    return TimeAndMemory(_bubble(row, schedule, EQUAL), report.bubble_ratio, peak)


def traffic(row: Row) -> Traffic:
    """Count collectives of the `unit` policy.

    Raises:
        RefusedError: the formula gives another number of gathers, or reduces are not V per unit.
    """
    schedule = row.schedule(*TRAFFIC_SIZE)
    programs = [shard(schedule, "unit", limit) for limit in RESIDENT]
    counts = [program.count(Kind.UNSHARD) for program in programs]
    for found in counts[0] if row.gathers else ():
        expected = row.gathers.value(schedule, EQUAL) if row.gathers else 0.0
        _hold(row, f"gathers {row.gathers}", schedule, EQUAL, expected, found)
    owed = schedule.placement.num_chunks * len(schedule.units)
    for found in programs[0].count(Kind.REDUCE):
        _hold(row, "reduces, V per unit", schedule, EQUAL, owed, found)
    return Traffic(tuple((min(count), max(count)) for count in counts), owed)


def _costs(schedule: Schedule, times: Times) -> Costs:
    return Costs.uniform(schedule.placement.pp_size, schedule.placement.num_chunks, *times)


def _bubble(row: Row, schedule: Schedule, times: Times) -> float:
    ran = evaluate(schedule, _costs(schedule, times).duration)
    return (_longest_span(ran) if row.own_span else ran.makespan) - ran.busy(0)


def _longest_span(ran: Timeline) -> float:
    return max(spans[-1].end - spans[0].start for spans in ran.spans)


def _hold(
    row: Row, what: str, schedule: Schedule, times: Times, expected: float, found: float
) -> None:
    if math.isclose(expected, found, rel_tol=1e-4, abs_tol=1e-6):
        return
    placement = schedule.placement
    raise RefusedError(
        f"{row.label}: {what} gives {expected:g}, but {found:g} is simulated at "
        f"P={placement.pp_size}, V={placement.num_chunks}, B={schedule.num_microbatches}, "
        f"times {times}"
    )

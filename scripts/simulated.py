"""Blocks of the pages about what is evaluated or printed; and pictures of schedules."""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path

from measured import table
from zeropp.costs import Costs, floor
from zeropp.generate import GENERATORS, generate
from zeropp.ir import Kind, Order, Schedule, evaluate, peak_slots_per_rank
from zeropp.program import lower
from zeropp.program.collectives import shard
from zeropp.show import show
from zeropp.simulate import simulate

Size = tuple[int, int, int]  # P, V where the schedule takes it, B
Times = tuple[float, float, float]  # F, B, W of one micro-batch through a whole rank

EQUAL: Times = (1, 1, 1)
SIZES: tuple[Size, ...] = ((4, 2, 16), (8, 2, 32), (16, 4, 64))
UNITS = ("drain, U=P", "drain, U=2P", "carry, U=P", "eager, U=P")
LABELS = (*(name for name in GENERATORS if name != "zeropp"), *(f"zeropp, {u}" for u in UNITS))


def made(label: str, size: Size, times: Times = EQUAL) -> Schedule:
    """The schedule that a page calls so, for these times."""
    (name, *knobs), (P, V, B) = label.split(", "), size
    allowed = GENERATORS[name].chunks
    V = V if allowed is None else max(allowed)
    seam, unit = (knobs[0], int(knobs[1][2:-1] or 1) * P) if knobs else (None, None)
    costs = Costs.uniform(P, V, *times)
    return generate(Order(name, unit_size=unit, seam=seam), P, V, B, costs=costs)


def idle(schedule: Schedule, times: Times = EQUAL) -> tuple[float, float, float]:
    """Of a rank: makespan less work, the same of the longest own span, and bubble ratio."""
    placement = schedule.placement
    costs = Costs.uniform(placement.pp_size, placement.num_chunks, *times)
    ran = evaluate(schedule, costs.duration)
    own = max(spans[-1].end - spans[0].start for spans in ran.spans)
    bubble = ran.makespan - ran.busy(0)
    return bubble, own - ran.busy(0), bubble / ran.makespan


def peak(schedule: Schedule) -> float:
    """Activations of the worst rank, in micro-batches through a whole rank."""
    return max(peak_slots_per_rank(schedule)) / schedule.placement.num_chunks


def gathers(schedule: Schedule, resident: int) -> tuple[int, ...]:
    """Of every rank, where so many stages may be resident."""
    return shard(schedule, "unit", resident).count(Kind.UNSHARD)


def time_and_memory() -> None:
    """Idle time and peak at equal times."""
    lines = []
    for label in LABELS:
        schedules = [made(label, size) for size in SIZES]
        bubbles, spans, ratios = zip(*map(idle, schedules), strict=True)
        allowed = GENERATORS[label.split(", ")[0]].chunks
        line = [label, "any" if allowed is None else max(allowed), schedules[0].placement.shape]
        line += [_each(bubbles), _each(spans), ", ".join(f"{100 * r:.1f}" for r in ratios)]
        lines.append([*line, _each(map(peak, schedules))])
    head = "schedule", "V", "placement", "bubble", "within a span", "bubble ratio, %", "peak"
    table(head, lines)


def traffic() -> None:
    """Gathers and reduces of the `unit` policy."""
    lines = []
    for label in LABELS:
        schedule = made(label, (8, 4, 32))
        V, counts = schedule.placement.num_chunks, [gathers(schedule, n) for n in (1, 2, 3)]
        ranges = ["-".join(map(str, dict.fromkeys((min(c), max(c))))) for c in counts]
        lines.append([label, V, *ranges, V * len(schedule.units)])
    table(["schedule", "V", "1 resident", "2 resident", "3 resident", "reduces"], lines)


def slow_gathers() -> None:
    """How far above floor and first gather, in %, by times of a gather in chunk forwards."""
    orders = {
        "zeropp": Order("zeropp"),
        "zeropp, U=16": Order("zeropp", 16),
        "zeropp, drain, U=8": Order("zeropp", 8, "drain"),
        "zeropp, drain, U=16": Order("zeropp", 16, "drain"),
        "breadth-first": Order("breadth-first"),
    }
    lines = []
    for (name, order), W in product(orders.items(), (1, 0.7)):
        found = [_behind_gathers(order, gather, W) for gather in (1, 2, 4, 8)]
        held, over = zip(*found, strict=True)
        lines.append([name, f"1, 1, {W}", f"{max(held):g}", *(f"{each:.1f}" for each in over)])
    table(["schedule", "F, B, W of a chunk", "holds at most", "1", "2", "4", "8"], lines)


def _behind_gathers(order: Order, gather: float, W: float) -> tuple[float, float]:
    costs = Costs.uniform(8, 2, 2, 2, 2 * W, gather=gather)
    schedule = generate(order, 8, 2, 32, costs=costs, max_resident=1)
    program = lower(schedule, "unit", max_resident=1, expected=costs.expected(schedule))
    least = floor(schedule.placement, 32, costs) + gather
    return peak(schedule), 100 * (simulate(program, costs).makespan / least - 1)


def refined() -> None:
    """How far above the floor, in %, as made -> refined."""
    lines = []
    for name, generator in GENERATORS.items():
        V = 2 if generator.chunks is None or 2 in generator.chunks else 1
        plain = Costs.uniform(4, V, 2.0, 2.2, 1.6, latency=0.05)
        cases = plain, plain.scaled(4 * V - 1, 1.3), plain.scaled(1, 1.3)
        lines.append([name, *(_above_floor(name, V, costs) for costs in cases)])
    slow = (f"{which} stage 30 % longer" for which in ("and a last", "or a second"))
    table(["schedule", "hops of 0.05", *slow], lines)


def _above_floor(name: str, V: int, costs: Costs) -> str:
    found = []
    for refine in (False, True):
        schedule = generate(Order(name, refine=refine), 4, V, 8, costs=costs)
        least = floor(schedule.placement, 8, costs, max(peak_slots_per_rank(schedule)))
        makespan = evaluate(schedule, costs.duration, costs.latency).makespan
        found.append(f"{max(0, 100 * (makespan / least - 1)):.1f}")
    return " -> ".join(found)


def command(line: str) -> None:
    """A command and what it prints on a terminal of 80 columns."""
    program = [sys.executable, "-m", "zeropp.cli.main", *shlex.split(line)[1:]]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            program, cwd=folder, env=os.environ | {"COLUMNS": "80"}, capture_output=True, text=True
        )
    printed = "\n".join(map(str.rstrip, (done.stdout + done.stderr).rstrip().split("\n")))
    print(f"```text\n$ {line}\n{printed}\n```")


def draw(folder: Path) -> None:
    """The picture of every schedule that has a section: P=4, B=8, equal times, with the floor."""
    for label in (label for label in LABELS if "U=2P" not in label):
        schedule = made(label, (4, 2, 8))
        costs = Costs.uniform(4, schedule.placement.num_chunks)
        timeline = replace(evaluate(schedule, costs.duration), title=label)
        path = folder / f"{'-'.join(label.split(', ')[:2])}.svg"
        least = floor(schedule.placement, 8, costs, max(peak_slots_per_rank(schedule)))
        show([timeline], path, least)


def shown(folder: Path) -> dict[str, list[tuple[str, ...]]]:
    """Boxes and text of every picture; versions of matplotlib place text a little differently."""
    parts = r'<path d="([^"]*)" clip-path="[^"]*" style="fill: (#\w+)|>([^<]+)</text>'
    return {path.name: re.findall(parts, path.read_text("utf-8")) for path in folder.iterdir()}


def _each(numbers: Iterable[float]) -> str:
    return ", ".join(f"{abs(round(number, 4)):g}" for number in numbers)

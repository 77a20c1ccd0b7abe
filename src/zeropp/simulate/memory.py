"""Memory of each rank over simulated time, by category."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from zeropp.costs import Bytes, PerStage, at_stage
from zeropp.ir.action import BACKWARD, NEEDS_PARAMETERS, SENDS, WEIGHT, Kind
from zeropp.ir.precedence import boundary_of
from zeropp.ir.program import Program
from zeropp.simulate.engine import Run


class Category(StrEnum):
    """What memory is used for."""

    PARAMETERS = "parameters"
    OPTIMIZER = "optimizer"
    GATHERED = "gathered"
    GRADIENTS = "gradients"
    UNTIL_BACKWARD = "until_backward"
    UNTIL_WEIGHT = "until_weight"
    MESSAGES = "messages"
    STAGING = "staging"  # of collectives
    WORKSPACE = "workspace"


_SAME = 1e-9  # of the makespan
Change = tuple[float, float, Category]  # when, by how much, what; sorted, frees come first


@dataclass(frozen=True)
class Memory:
    """One rank's memory.

    Attributes:
        curve: (time, total) after every change, in time order.
        peak: the largest total.
        at_peak: what the peak consists of.
    """

    curve: tuple[tuple[float, float], ...]
    peak: float
    at_peak: dict[Category, float]


def memory_of(program: Program, run: Run, sizes: Bytes, rank: int) -> Memory:
    """The memory of `rank`; what is freed and allocated at one time is freed first."""
    held = _always(program, sizes, rank)
    total = peak = sum(held.values())
    at_peak = dict(held)
    curve = [(0.0, total)]
    changes = _at_moments(_changes(program, run, sizes, rank), _SAME * run.makespan)
    for now, amount, category in sorted(changes):
        held[category] += amount
        total += amount
        if now == curve[-1][0]:
            curve.pop()
        curve.append((now, total))
        if total > peak:
            peak, at_peak = total, dict(held)
    return Memory(tuple(curve), peak, at_peak)


def _at_moments(changes: Iterator[Change], apart: float) -> Iterator[Change]:
    """Changes whose times differ by less than `apart`, as sums of floats do, get one time."""
    moment = float("-inf")
    for now, amount, category in sorted(changes):
        if now - moment > apart:
            moment = now
        yield moment, amount, category


def _always(program: Program, sizes: Bytes, rank: int) -> dict[Category, float]:
    """What is held throughout; unsharded parameters count as gathered."""
    stages = program.placement.stages_of(rank)

    def every(size: PerStage) -> float:
        return sum(at_stage(size, stage) for stage in stages)

    held = dict.fromkeys(Category, 0.0)
    held[Category.PARAMETERS] = every(sizes.parameters)
    held[Category.OPTIMIZER] = every(sizes.optimizer)
    held[Category.WORKSPACE] = max(at_stage(sizes.workspace, stage) for stage in stages)
    if program.shard is None:
        held[Category.GATHERED] = every(sizes.gathered)
    return held


def _changes(program: Program, run: Run, sizes: Bytes, rank: int) -> Iterator[Change]:
    yield from _activations(run, sizes, rank)
    if sizes.gathered:
        yield from _gathered(run, sizes.gathered, rank)
    if sizes.gradients:
        yield from _gradients(run, sizes.gradients, rank)
    if sizes.message:
        yield from _messages(run, sizes.message, rank)
    if sizes.gather_staging or sizes.reduce_staging:
        yield from _staging(run, sizes, rank)


def _activations(run: Run, sizes: Bytes, rank: int) -> Iterator[Change]:
    for (kind, stage, _), start, end in run.spans[rank]:
        if kind is Kind.F:
            yield start, at_stage(sizes.until_backward, stage), Category.UNTIL_BACKWARD
        elif kind in BACKWARD:
            yield end, -at_stage(sizes.until_backward, stage), Category.UNTIL_BACKWARD
        if kind is Kind.B:
            yield end, at_stage(sizes.until_weight, stage), Category.UNTIL_WEIGHT
        elif kind is Kind.W:
            yield end, -at_stage(sizes.until_weight, stage), Category.UNTIL_WEIGHT


def _gathered(run: Run, size: PerStage, rank: int) -> Iterator[Change]:
    for action, start, _ in run.spans[rank]:
        if action.kind is Kind.UNSHARD:
            yield start, at_stage(size, action.stage), Category.GATHERED
    for stage, time in run.points[rank]:
        yield time, -at_stage(size, stage), Category.GATHERED


def _gradients(run: Run, size: PerStage, rank: int) -> Iterator[Change]:
    """Per stage, from the first W after a REDUCE until the end of the next REDUCE."""
    spans = sorted(run.spans[rank], key=lambda s: (s.start, s.action.kind is not Kind.REDUCE))
    pending: set[int] = set()
    for (kind, stage, _), start, end in spans:
        if kind in WEIGHT and stage not in pending:
            pending.add(stage)
            yield start, at_stage(size, stage), Category.GRADIENTS
        elif kind is Kind.REDUCE:
            pending.discard(stage)
            yield end, -at_stage(size, stage), Category.GRADIENTS


def _messages(run: Run, size: PerStage, rank: int) -> Iterator[Change]:
    for action, start, end in run.spans[rank]:
        if action.kind in SENDS:
            amount = at_stage(size, boundary_of(action))
            yield start, amount, Category.MESSAGES
            yield end, -amount, Category.MESSAGES


def _staging(run: Run, sizes: Bytes, rank: int) -> Iterator[Change]:
    """Flat buffers: of a gather until its first use copies it out, of a REDUCE while it runs."""
    waiting: set[int] = set()
    for (kind, stage, _), start, end in run.spans[rank]:
        if kind is Kind.UNSHARD:
            waiting.add(stage)
            yield start, at_stage(sizes.gather_staging, stage), Category.STAGING
        elif kind is Kind.REDUCE:
            yield start, at_stage(sizes.reduce_staging, stage), Category.STAGING
            yield end, -at_stage(sizes.reduce_staging, stage), Category.STAGING
        elif kind in NEEDS_PARAMETERS and stage in waiting:
            waiting.discard(stage)
            yield start, -at_stage(sizes.gather_staging, stage), Category.STAGING

"""Memory of each rank over simulated time, by category."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from zeropp.costs import Bytes
from zeropp.ir.action import BACKWARD, WEIGHT, Kind
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
    stages = program.placement.num_chunks
    held = dict.fromkeys(Category, 0.0)
    held[Category.PARAMETERS] = stages * sizes.parameters
    held[Category.OPTIMIZER] = stages * sizes.optimizer
    if program.shard is None:
        held[Category.GATHERED] = stages * sizes.gathered
    total = peak = sum(held.values())
    at_peak = dict(held)
    curve = [(0.0, total)]
    for now, amount, category in sorted(_changes(program, run, sizes, rank)):
        held[category] += amount
        total += amount
        if now == curve[-1][0]:
            curve.pop()
        curve.append((now, total))
        if total > peak:
            peak, at_peak = total, dict(held)
    return Memory(tuple(curve), peak, at_peak)


def _changes(program: Program, run: Run, sizes: Bytes, rank: int) -> Iterator[Change]:
    yield from _activations(run, sizes, rank)
    if sizes.gathered:
        yield from _gathered(run, sizes, rank)
    if sizes.gradients:
        yield from _gradients(program, run, sizes, rank)
    if sizes.message:
        yield from _messages(run, sizes, rank)


def _activations(run: Run, sizes: Bytes, rank: int) -> Iterator[Change]:
    for (kind, _, _), start, end in run.spans[rank]:
        if kind is Kind.F:
            yield start, sizes.until_backward, Category.UNTIL_BACKWARD
        elif kind in BACKWARD:
            yield end, -sizes.until_backward, Category.UNTIL_BACKWARD
        if kind is Kind.B:
            yield end, sizes.until_weight, Category.UNTIL_WEIGHT
        elif kind is Kind.W:
            yield end, -sizes.until_weight, Category.UNTIL_WEIGHT


def _gathered(run: Run, sizes: Bytes, rank: int) -> Iterator[Change]:
    for action, start, _ in run.spans[rank]:
        if action.kind is Kind.UNSHARD:
            yield start, sizes.gathered, Category.GATHERED
    for _, time in run.points[rank]:
        yield time, -sizes.gathered, Category.GATHERED


def _gradients(program: Program, run: Run, sizes: Bytes, rank: int) -> Iterator[Change]:
    """Per stage, from the first W after a REDUCE until the end of the next REDUCE."""
    spans = sorted(run.spans[rank], key=lambda s: (s.start, s.action.kind is not Kind.REDUCE))
    pending: set[int] = set()
    for (kind, stage, _), start, end in spans:
        if kind in WEIGHT and stage not in pending:
            pending.add(stage)
            yield start, sizes.gradients, Category.GRADIENTS
        elif kind is Kind.REDUCE:
            pending.discard(stage)
            yield end, -sizes.gradients, Category.GRADIENTS


def _messages(run: Run, sizes: Bytes, rank: int) -> Iterator[Change]:
    for action, start, end in run.spans[rank]:
        if action.kind in (Kind.SEND_F, Kind.SEND_B):
            yield start, sizes.message, Category.MESSAGES
            yield end, -sizes.message, Category.MESSAGES

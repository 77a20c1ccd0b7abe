"""Memory of each rank over simulated time, by category."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from zeropp.costs import Costs
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


def memory_of(program: Program, run: Run, costs: Costs, rank: int) -> Memory:
    """The memory of `rank`; what is freed and allocated at one time is freed first."""
    held = _always(program, costs, rank)
    total = peak = sum(held.values())
    at_peak = dict(held)
    curve = [(0.0, total)]
    changes = _at_moments(_changes(run, costs, rank), _SAME * run.makespan)
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
    for now, amount, category in sorted(change for change in changes if change[1]):
        if now - moment > apart:
            moment = now
        yield moment, amount, category


def _always(program: Program, costs: Costs, rank: int) -> dict[Category, float]:
    """What is held throughout; unsharded parameters count as gathered."""
    stages = program.placement.stages_of(rank)
    held = dict.fromkeys(Category, 0.0)
    held[Category.PARAMETERS] = sum(costs.parameters[stage] for stage in stages)
    held[Category.OPTIMIZER] = sum(costs.optimizer_state[stage] for stage in stages)
    held[Category.WORKSPACE] = max(costs.workspace[stage] for stage in stages)
    if program.shard is None:
        held[Category.GATHERED] = sum(costs.gathered[stage] for stage in stages)
    return held


def _changes(run: Run, costs: Costs, rank: int) -> Iterator[Change]:
    """Activations, messages on their way, gathered parameters, gradients, and flat buffers.

    Gradients are held from the first W after a REDUCE until the end of the next REDUCE. Flat
    buffers: of a gather until its first use copies it out, of a REDUCE while it runs.
    """
    flat, summed = set[int](), set[int]()
    for stage, time in run.points[rank]:
        yield time, -costs.gathered[stage], Category.GATHERED
    for action, start, end in sorted(
        run.spans[rank], key=lambda s: (s.start, s.action.kind is not Kind.REDUCE)
    ):
        kind, stage = action.kind, action.stage
        if kind is Kind.F:
            yield start, costs.until_backward[stage], Category.UNTIL_BACKWARD
        elif kind in BACKWARD:
            yield end, -costs.until_backward[stage], Category.UNTIL_BACKWARD
        elif kind in SENDS:
            yield start, costs.message[boundary_of(action)], Category.MESSAGES
            yield end, -costs.message[boundary_of(action)], Category.MESSAGES
        elif kind is Kind.UNSHARD:
            flat.add(stage)
            yield start, costs.gathered[stage], Category.GATHERED
            yield start, costs.gather_staging[stage], Category.STAGING
        elif kind is Kind.REDUCE:
            summed.discard(stage)
            yield start, costs.reduce_staging[stage], Category.STAGING
            yield end, -costs.reduce_staging[stage], Category.STAGING
            yield end, -costs.gradients[stage], Category.GRADIENTS
        if kind is Kind.B:
            yield end, costs.until_weight[stage], Category.UNTIL_WEIGHT
        elif kind is Kind.W:
            yield end, -costs.until_weight[stage], Category.UNTIL_WEIGHT
        if kind in NEEDS_PARAMETERS and stage in flat:
            flat.discard(stage)
            yield start, -costs.gather_staging[stage], Category.STAGING
        if kind in WEIGHT and stage not in summed:
            summed.add(stage)
            yield start, costs.gradients[stage], Category.GRADIENTS

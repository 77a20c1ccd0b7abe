"""What an order takes under a layout: it is made, lowered and simulated; as plain numbers.

For a batch of too many actions two shorter ones are simulated, a period of the schedule apart; what
the longer one takes beyond the shorter one is added as often as it is missing.
"""

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import accumulate
from typing import Any

from zeropp.costs import Costs
from zeropp.generate import generate
from zeropp.ir.action import Kind
from zeropp.ir.schedule import Schedule
from zeropp.ir.slots import peak_slots_per_rank
from zeropp.ir.timeline import Timeline
from zeropp.planner.order import Order
from zeropp.planner.pricing import Priced
from zeropp.program.lowering import lower
from zeropp.simulate import Report, simulate
from zeropp.simulate.engine import run_program

_MOST_ACTIONS = 30_000  # of one simulation in a search; about a second


@dataclass(frozen=True)
class Prediction:
    """One step; seconds, bytes and counts.

    Attributes:
        step_s: until the last rank has done its optimizer step.
        floor_s: the makespan that no schedule of the placement can beat, without collectives.
        compute_s: for the slowest rank, the time in which it computes.
        idle_s: mean over the ranks, idle time by cause.
        peak_bytes: of the fullest rank.
        memory: for each rank of a pipeline, what its peak consists of.
        gathers: for each rank, all-gathers.
        reduces: for each rank, reduce-scatters.
        wire_bytes: for each rank, what it gathers, reduces and sends.
        extended: whether a shorter batch was simulated and extended by its last units, which is
            exact where the schedule is periodic.
    """

    step_s: float
    floor_s: float
    compute_s: float
    idle_s: dict[str, float]
    peak_bytes: float
    memory: tuple[dict[str, float], ...]
    gathers: tuple[float, ...]
    reduces: tuple[float, ...]
    wire_bytes: tuple[float, ...]
    extended: bool = False

    @property
    def bubble_ratio(self) -> float:
        """Idle time of the compute streams / (P x step)."""
        return sum(self.idle_s.values()) / self.step_s

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON and TOML."""
        listed = {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items()}
        return listed | {"bubble_ratio": self.bubble_ratio}


@dataclass(frozen=True)
class Made:
    """A made order: what does not depend on how parameters are sharded."""

    schedules: tuple[Schedule, ...]  # one, or a shorter and a longer one
    beyond: float  # how many times their difference is added to the longer one
    slots: int  # the most that a rank uses
    activations: tuple[float, ...]  # for each rank, the most bytes that its micro-batches hold
    costs: Costs  # compute times, and those of messages on their way

    @cached_property
    def expected(self) -> tuple[Timeline, ...]:
        """Of each schedule, when its messages are expected."""
        return tuple(map(self.costs.expected, self.schedules))

    @cached_property
    def makespan(self) -> float:
        """Seconds without collectives; simulated when first asked for."""
        each = zip(self.schedules, self.expected, strict=True)
        programs = [lower(schedule, expected=expected) for schedule, expected in each]
        spans = [run_program(program, self.costs).makespan for program in programs]
        return spans[-1] + self.beyond * (spans[-1] - spans[0])


def made_order(priced: Priced, order: Order, most_actions: int = _MOST_ACTIONS) -> Made:
    """The order for the layout's batch, or, of too many actions, for two shorter ones."""
    batches, beyond = _batches(priced, order, most_actions)
    schedules = tuple(schedule_of(priced, order, batch) for batch in batches)
    used = max(peak_slots_per_rank(schedules[-1]))
    held = _held(schedules[-1], priced.costs)
    return Made(schedules, beyond, used, held, replace(priced.costs, host=0.0, optimizer=0.0))


def schedule_of(priced: Priced, order: Order, batch: int) -> Schedule:
    """The compute order for a batch, made for the layout's costs."""
    placement = priced.layout.placement
    sizes = placement.pp_size, placement.num_chunks, batch
    costs = priced.made_for(order)
    return generate(order, *sizes, costs=costs, max_resident=order.gathered)


def predict(priced: Priced, order: Order, made: Made) -> Prediction:
    """One step with its collectives and memory."""
    programs = [
        lower(schedule, order.shard, max_resident=order.max_resident, expected=expected)
        for schedule, expected in zip(made.schedules, made.expected, strict=True)
    ]
    shorter, *longer = [_prediction(simulate(program, priced.costs)) for program in programs]
    return _extend(shorter, longer[0], made.beyond) if longer else shorter


def _batches(priced: Priced, order: Order, most: int) -> tuple[tuple[int, ...], float]:
    """The batch, or two shorter ones, and how often their difference is missing."""
    batch, stages = priced.num_microbatches, priced.layout.placement.num_stages
    period = order.generator.period(priced.request(order))
    if period is not None and 3 * stages * batch > most:
        periods = max(3, math.ceil(most / (3 * stages * period)))
        longer = batch % period + periods * period
        if longer < batch:
            return (longer - period, longer), (batch - longer) / period
    return (batch,), 0.0


def _held(schedule: Schedule, costs: Costs) -> tuple[float, ...]:
    """Activations are taken by F, shrink to what W needs in B, and are freed by W, or by BW."""
    until_b, until_w = costs.until_backward, costs.until_weight
    change = {
        Kind.F: until_b,
        Kind.B: [w - b for b, w in zip(until_b, until_w, strict=True)],
        Kind.W: [-w for w in until_w],
        Kind.BW: [-b for b in until_b],
    }
    return tuple(
        max(accumulate(change[kind][stage] for kind, stage, _ in actions))
        for actions in schedule.actions
    )


def _prediction(report: Report) -> Prediction:
    ranks = range(report.program.placement.pp_size)
    return Prediction(
        step_s=report.makespan,
        floor_s=report.floor,
        compute_s=max(map(report.timeline.busy, ranks)),
        idle_s={cause: time / len(ranks) for cause, time in report.idle.items()},
        peak_bytes=max(memory.peak for memory in report.memory),
        memory=tuple({str(k): v for k, v in m.at_peak.items()} for m in report.memory),
        gathers=tuple(map(float, report.program.count(Kind.UNSHARD))),
        reduces=tuple(map(float, report.program.count(Kind.REDUCE))),
        wire_bytes=report.wire,
    )


def _extend(shorter: Prediction, longer: Prediction, times: float) -> Prediction:
    """`longer` with `times` more of what it has beyond `shorter`; memory stays as it is."""
    changed: dict[str, Any] = {"extended": True}
    for name in (field.name for field in fields(Prediction)):
        if name not in ("peak_bytes", "memory", "extended"):
            changed[name] = _more(getattr(shorter, name), getattr(longer, name), times)
    return replace(longer, **changed)


def _more(short: Any, longer: Any, times: float) -> Any:
    if isinstance(longer, dict):
        return {key: _more(short[key], longer[key], times) for key in longer}
    if isinstance(longer, tuple):
        return tuple(_more(a, b, times) for a, b in zip(short, longer, strict=True))
    return max(0.0, longer + (longer - short) * times)

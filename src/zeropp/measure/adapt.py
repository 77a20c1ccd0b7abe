"""Adapting while training: measured times make a new order, if it is worth the switch.

Stages, sharding and memory stay as they are; the order of F, B and W changes, and with it the units
of `zeropp`, which is made anew for the times. Other schedules are refined for them; a vee is also
made anew. Every rank computes the same answer from the same times, and all switch between the same
two steps.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from zeropp.build import program_for
from zeropp.costs import Costs
from zeropp.generate import GENERATORS, Request
from zeropp.ir import Kind, Program, Shape
from zeropp.ir.slots import peak_slots_per_rank
from zeropp.measure.trace import StageTimes, gathered_costs
from zeropp.plan import Plan
from zeropp.program import require_split, without_collectives
from zeropp.runtime.pipeline import Pipeline
from zeropp.simulate import simulate

_CHANGED = 0.03  # of any stage's time, below which nothing new is looked for


@dataclass(frozen=True)
class Switch:
    """A change of the order: seconds of a step by the measured times, and what runs from now on."""

    before_s: float
    after_s: float
    plan: Plan
    program: Program

    @property
    def gain(self) -> float:
        """The share of the step's time that is saved."""
        return 1 - self.after_s / self.before_s

    def __str__(self) -> str:
        return (
            f"new order ({self.plan.order}): {self.before_s * 1e3:.1f} ms -> "
            f"{self.after_s * 1e3:.1f} ms predicted ({-self.gain:+.1%})"
        )


class Adapter:
    """Watches a pipeline's times, and gives it a better order when there is one.

    Use: `pipe.step(batch, observer=adapter.times)`, then `adapter.after_step()`, on every rank.

    Args:
        pipe: trained by a schedule that splits B from W.
        plan: whose program the pipeline runs.
        every: steps whose times are looked at together, by their medians.
        gain: the least share of the step's time that a switch must save, by prediction.
        latency: seconds of a hop between ranks.

    Raises:
        ValueError: a schedule whose backwards are fused, or a number out of range.
    """

    def __init__(
        self, pipe: Pipeline, plan: Plan, every: int = 10, gain: float = 0.02, latency: float = 0.0
    ) -> None:
        require_split(pipe.program.schedule, "adapting")
        if every < 1:
            raise ValueError(f"every must be at least 1 step, got {every}")
        if not 0 < gain < 1:
            raise ValueError(f"gain must be above 0 and below 1, got {gain}")
        self.times = StageTimes(pipe.device)
        self.plan = plan
        self._pipe, self._every, self._gain, self._latency = pipe, every, gain, latency
        self._steps = 0
        self._known: tuple[float, ...] = ()  # times of all stages, when last looked at

    def after_step(self) -> Switch | None:
        """Count a step; every so many, look for a better order, and switch to it; collective."""
        self._steps += 1
        if self._steps % self._every:
            return None
        self._pipe.agree("Adapter.after_step")
        costs = gathered_costs(self.times.take(), self._pipe.placement, self._latency)
        if costs is None:
            return None
        times = (*costs.forward, *costs.backward, *costs.weight)
        pairs = zip(times, self._known, strict=False)
        if self._known and all(abs(now - then) <= _CHANGED * then for now, then in pairs):
            return None
        self._known = times
        switch = better_order(self.plan, self._pipe.program, costs)
        if switch is None or switch.gain < self._gain:
            return None
        self._pipe.follow(switch.program)
        self.plan = switch.plan
        return switch


def better_order(plan: Plan, program: Program, costs: Costs) -> Switch | None:
    """The fastest order for `costs` that communicates no more than `program`, the plan's own.

    It holds no more either, or than the plan's `slots`.
    """
    slots = plan.slots
    if not isinstance(slots, int):
        slots = max(peak_slots_per_rank(program.schedule))
    most = {kind: max(program.count(kind)) for kind in (Kind.UNSHARD, Kind.REDUCE)}
    before = simulate(program, costs).makespan
    found = []
    for candidate in _candidates(plan, program, costs, slots):
        order = program_for(candidate, plan.num_microbatches)
        if program.shard is None:
            order = without_collectives(order)
        lean = max(peak_slots_per_rank(order.schedule)) <= slots
        if lean and all(max(order.count(kind)) <= most[kind] for kind in most):
            found.append(Switch(before, simulate(order, costs).makespan, candidate, order))
    return min(found, key=lambda switch: switch.after_s, default=None)


def _candidates(plan: Plan, program: Program, costs: Costs, slots: int) -> Iterator[Plan]:
    P, B = plan.pp_size, plan.num_microbatches
    if "seam" not in GENERATORS[plan.schedule].options:
        yield replace(plan, refine=True, slots=slots, costs=costs)
        vee = GENERATORS[plan.schedule].shape is Shape.VEE
        if vee and slots >= GENERATORS["vee"].enough(Request(P, 2, B)):
            yield replace(plan, schedule="vee", refine=True, slots=slots, costs=costs)
        return
    sizes = {size for size in (max(program.schedule.units), P, 2 * P - 1, B) if size <= B}
    for seam, size in product(("strict", "eager", "drain"), sorted(sizes)):
        if (plan.num_chunks - 1) * size < slots:
            allowed = None if seam == "drain" else slots
            yield replace(plan, seam=seam, unit_size=size, slots=allowed, costs=costs)

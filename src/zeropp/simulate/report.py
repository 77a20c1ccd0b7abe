"""What a simulation tells: time, its floor, idle time by cause, memory, collectives and bytes."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from zeropp.costs import Costs, floor
from zeropp.ir.action import NEEDS_PARAMETERS, SENDS, WEIGHT, Action, Kind
from zeropp.ir.cause import Cause
from zeropp.ir.collector import collector_paused
from zeropp.ir.program import Program
from zeropp.ir.slots import peak_slots_per_rank
from zeropp.ir.timeline import Timeline
from zeropp.simulate.engine import Run, boundary_of, run_program


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


@dataclass(frozen=True)
class Report:
    """One simulated step.

    Attributes:
        program: what was run.
        run: every span, and idle time by cause.
        memory: of each rank.
        floor: the makespan that no schedule of the placement in the same slots can beat, without
            collectives.
        peak_slots: for each rank, the most activations (one chunk of one micro-batch each).
        costs: what it was run for.
    """

    program: Program
    run: Run
    memory: tuple[Memory, ...]
    floor: float
    peak_slots: tuple[int, ...]
    costs: Costs

    @property
    def name(self) -> str:
        """Of the schedule."""
        return self.program.schedule.name

    @property
    def num_chunks(self) -> int:
        """V, stages per rank."""
        return self.program.placement.num_chunks

    @property
    def peak_microbatches(self) -> float:
        """Peak activations of the worst rank, in micro-batches through a whole rank."""
        return max(self.peak_slots) / self.num_chunks

    @property
    def makespan(self) -> float:
        """Of the step, in the costs' unit."""
        return self.run.makespan

    @property
    def timeline(self) -> Timeline:
        """All spans, for pictures; SENDs last as long as their transfer."""
        return Timeline(self.name, self.program.placement, self.run.spans)

    @property
    def bubble_ratio(self) -> float:
        """Idle time of the compute streams / (P x makespan)."""
        ranks = len(self.run.idle)
        return sum(sum(causes.values()) for causes in self.run.idle) / (ranks * self.makespan)

    @property
    def idle(self) -> dict[str, float]:
        """Idle time of all ranks together, by cause."""
        return {str(cause): sum(rank[cause] for rank in self.run.idle) for cause in Cause}

    @property
    def wire(self) -> tuple[float, ...]:
        """For each rank, what it gathers, reduces and sends in a step, in the unit of sizes.

        A ring moves (D-1)/D of what is gathered or reduced over D ranks.
        """
        return tuple(sum(map(self._carried, order)) for order in self.program.actions)

    def _carried(self, action: Action) -> float:
        if action.kind in SENDS:
            return self.costs.message[boundary_of(action)]
        if action.kind is Kind.UNSHARD:
            return self.costs.gathered[action.stage]
        return self.costs.gradients[action.stage] if action.kind is Kind.REDUCE else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        program, schedule, costs = self.program, self.program.schedule, self.costs
        ran = Counter((a.kind, a.stage) for order in program.actions for a in order)

        def per_stage(kind: Kind, values: tuple[float, ...]) -> tuple[float, ...]:
            return tuple(ran[kind, stage] * value for stage, value in enumerate(values))

        return {
            "schedule": schedule.name,
            "params": dict(schedule.params),
            "pp_size": schedule.placement.pp_size,
            "num_chunks": schedule.placement.num_chunks,
            "num_microbatches": schedule.num_microbatches,
            "units": list(schedule.units),
            "shard": program.shard,
            "max_resident": program.max_resident,
            "makespan": self.makespan,
            "floor": self.floor,
            "over_floor": self.makespan / self.floor - 1,
            "bubble_ratio": self.bubble_ratio,
            "peak_slots": list(self.peak_slots),
            "peak_memory": [memory.peak for memory in self.memory],
            "memory_at_peak": [
                {str(k): v for k, v in memory.at_peak.items()} for memory in self.memory
            ],
            "gathers": list(program.count(Kind.UNSHARD)),
            "reduces": list(program.count(Kind.REDUCE)),
            "messages": list(map(sum, zip(*map(program.count, SENDS), strict=True))),
            "wire": list(self.wire),
            "stage_gather_time": per_stage(Kind.UNSHARD, costs.gather),
            "stage_gather_bytes": per_stage(Kind.UNSHARD, costs.gathered),
            "stage_reduce_time": per_stage(Kind.REDUCE, costs.reduce),
            "stage_reduce_bytes": per_stage(Kind.REDUCE, costs.gradients),
            "idle": self.idle,
        }


@collector_paused()
def simulate(program: Program, costs: Costs) -> Report:
    """Run a program in simulated time; equal inputs give equal floats.

    Args:
        program: lowered; its collectives take time only where `costs` say so.
        costs: times and bytes per stage; of sizes that are left out, only activations count, so
            that peak memory is in slots.

    Raises:
        ValueError: costs for another number of stages.
        DeadlockError: the program deadlocks.
    """
    schedule = program.schedule
    peak_slots = peak_slots_per_rank(schedule)
    most = max(peak_slots) if schedule.trains else None
    bound = floor(schedule.placement, schedule.num_microbatches, costs, most)
    run = run_program(program, costs)
    ranks, held_by = range(schedule.placement.pp_size), _held_by(costs)
    memory = tuple(_memory_of(program, run, costs, held_by, rank) for rank in ranks)
    return Report(program, run, memory, bound, peak_slots, costs)


_SAME = 1e-9  # of the makespan
Change = tuple[float, float, Category]  # when, by how much, what; sorted, frees come first
Held = tuple[Sequence[float], bool, Category]  # by how much on each stage, whether at an end, what


def _memory_of(
    program: Program, run: Run, costs: Costs, held_by: Mapping[Kind, list[Held]], rank: int
) -> Memory:
    """The memory of `rank`; what is freed and allocated at one time is freed first."""
    held = _always(program, costs, rank)
    total = peak = sum(held.values())
    at_peak = dict(held)
    curve = [(0.0, total)]
    changes = [*_changes(run, costs, held_by, rank), *_at_first_use(run, costs, rank)]
    for now, amount, category in _at_moments(changes, _SAME * run.makespan):
        held[category] += amount
        total += amount
        if now == curve[-1][0]:
            curve.pop()
        curve.append((now, total))
        if total > peak:
            peak, at_peak = total, dict(held)
    return Memory(tuple(curve), peak, at_peak)


def _at_moments(changes: list[Change], apart: float) -> list[Change]:
    """In order; changes whose times differ by less than `apart`, as sums do, get one time."""
    moment, at_once = float("-inf"), []
    for now, amount, category in sorted(changes):
        if now - moment > apart:
            moment = now
        at_once.append((moment, amount, category))
    return sorted(at_once)


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


def _held_by(costs: Costs) -> dict[Kind, list[Held]]:
    """What an action allocates when it starts or ends, or frees, by its kind, if it is anything."""

    def frees(sizes: Sequence[float], what: Category) -> Held:
        return [-size for size in sizes], True, what

    sent = {
        kind: [costs.message[boundary_of(Action(kind, s))] for s in range(costs.num_stages)]
        for kind in SENDS
    }
    activations = frees(costs.until_backward, Category.UNTIL_BACKWARD)
    every: dict[Kind, list[Held]] = {
        Kind.F: [(costs.until_backward, False, Category.UNTIL_BACKWARD)],
        Kind.BW: [activations],
        Kind.B: [activations, (costs.until_weight, True, Category.UNTIL_WEIGHT)],
        Kind.W: [frees(costs.until_weight, Category.UNTIL_WEIGHT)],
        Kind.UNSHARD: [
            (costs.gathered, False, Category.GATHERED),
            (costs.gather_staging, False, Category.STAGING),
            (costs.gather_workspace, False, Category.STAGING),
            frees(costs.gather_workspace, Category.STAGING),
        ],
        Kind.REDUCE: [
            (costs.reduce_staging, False, Category.STAGING),
            frees(costs.reduce_staging, Category.STAGING),
            frees(costs.gradients, Category.GRADIENTS),
        ],
        **{
            kind: [(sizes, False, Category.MESSAGES), frees(sizes, Category.MESSAGES)]
            for kind, sizes in sent.items()
        },
    }
    return {kind: [held for held in every[kind] if any(held[0])] for kind in every}


def _changes(
    run: Run, costs: Costs, held_by: Mapping[Kind, list[Held]], rank: int
) -> Iterator[Change]:
    """Activations, messages on their way, gathered parameters, and buffers of collectives."""
    for stage, time in run.points[rank]:
        if size := costs.gathered[stage]:
            yield time, -size, Category.GATHERED
    for (kind, stage, _), start, end in run.spans[rank]:
        for sizes, at_end, category in held_by[kind]:
            if size := sizes[stage]:
                yield end if at_end else start, size, category


def _at_first_use(run: Run, costs: Costs, rank: int) -> Iterator[Change]:
    """The buffer of a gather is freed where its first use copies it out; gradients, which a REDUCE
    frees, are allocated by the first W after the last one.
    """
    if not any(costs.gather_staging) and not any(costs.gradients):
        return
    flat, summed = set[int](), set[int]()
    for (kind, stage, _), start, _ in sorted(
        run.spans[rank], key=lambda s: (s.start, s.action.kind is not Kind.REDUCE)
    ):
        if kind is Kind.UNSHARD:
            flat.add(stage)
        elif kind is Kind.REDUCE:
            summed.discard(stage)
        if kind in NEEDS_PARAMETERS and stage in flat:
            flat.discard(stage)
            if size := costs.gather_staging[stage]:
                yield start, -size, Category.STAGING
        if kind in WEIGHT and stage not in summed:
            summed.add(stage)
            if size := costs.gradients[stage]:
                yield start, size, Category.GRADIENTS

"""What a simulation tells: time, its floor, idle time by cause, memory, collectives and bytes."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from zeropp.costs import Costs, floor
from zeropp.ir.action import SENDS, Action, Kind, collector_paused
from zeropp.ir.precedence import boundary_of
from zeropp.ir.program import Program
from zeropp.ir.schedule import peak_slots_per_rank
from zeropp.ir.timeline import Cause, Timeline
from zeropp.simulate.engine import Run, run_program
from zeropp.simulate.memory import Memory, memory_of


@dataclass(frozen=True)
class Report:
    """One simulated step.

    Attributes:
        program: what was run.
        run: every span, and idle time by cause.
        memory: of each rank.
        floor: the makespan that no schedule of the placement can beat, without collectives.
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
    bound = floor(schedule.placement, schedule.num_microbatches, costs)
    run = run_program(program, costs)
    ranks = range(schedule.placement.pp_size)
    memory = tuple(memory_of(program, run, costs, rank) for rank in ranks)
    return Report(program, run, memory, bound, peak_slots_per_rank(schedule), costs)

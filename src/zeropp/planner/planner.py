"""The planner: the fastest plan of a problem, its rivals, the reasons, the trade-off over U."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from zeropp.ir.collector import collector_paused
from zeropp.ir.program import Policy
from zeropp.plan import Plan
from zeropp.planner.layout import Layout
from zeropp.planner.nearest import refuse
from zeropp.planner.order import Order
from zeropp.planner.plan_file import SavedPlan
from zeropp.planner.predict import Prediction, made_order, predict
from zeropp.planner.problem import Problem
from zeropp.planner.search import Candidate, Counts, Search, Wanted
from zeropp.planner.words import Rival, reasons

_LOOKED_FOR_UP_TO = 1.5  # times the winner's step: rivals that are slower are not searched for
_EFFORT = 24  # more orders that are made or simulated for a family of rivals
_FULL_ACTIONS = 150_000  # of the simulation of a winner: about five seconds

_PLAIN, _IN_UNITS = "plain FSDP", "FSDP in units"
_PIPELINED = {
    "1f1b": "1F1B",
    "interleaved-1f1b": "interleaved 1F1B",
    "breadth-first": "breadth-first",
    "zeropp": "ZeroPP",
    "zb-v": "a vee",
    "v-half": "a vee",
    "vee": "a vee",
}
_FAMILIES = (_PLAIN, _IN_UNITS, *dict.fromkeys(_PIPELINED.values()))


def _family_of(layout: Layout, order: Order) -> str:
    """What people would pick by name; plain is what FSDP and DDP do: gather always, or once."""
    if layout.pp_size > 1:
        return _PIPELINED[order.schedule]
    return _PLAIN if order.unit_size == 1 or order.shard is Policy.STEP else _IN_UNITS


@dataclass(frozen=True)
class Answer:
    """What the planner found.

    Attributes:
        problem: what was asked.
        best: the fastest candidate that fits.
        rivals: of every other family the best of its most promising plans, fastest first; none
            where no plan that fits was found within 1.5 times the step.
        counts: how much was looked at.
    """

    problem: Problem
    best: Candidate
    rivals: tuple[Rival, ...]
    counts: Counts

    @property
    def family(self) -> str:
        """The winner's family."""
        return _family_of(self.best.priced.layout, self.best.order)

    @property
    def prediction(self) -> Prediction:
        """Of the winner."""
        return self.best.prediction

    @property
    def tokens_per_s(self) -> float:
        """Over all devices."""
        return self.problem.global_batch * self.problem.profile.seq_len / self.best.step_s

    @property
    def mfu(self) -> float | None:
        """Model FLOPs / (devices x peak x step), attention in full; None where not known."""
        peak = self.problem.profile.device.peak_flops * self.problem.gpus * self.best.step_s
        return self.problem.flops / peak if peak and self.problem.flops else None

    @property
    def plan(self) -> Plan:
        """The winner as a plan."""
        return plan_of(self.best)

    @property
    def micro_batch_size(self) -> int:
        """The winner's sequences in a micro-batch."""
        return self.best.priced.layout.setting.micro_batch_size

    @property
    def reasons(self) -> tuple[str, ...]:
        """In words: why it won, what limits it, and whether pipelining pays."""
        return reasons(self.problem, self.best, self.rivals)

    @property
    def saved(self) -> SavedPlan:
        """For a plan file."""
        said = {"family": self.family, "why": list(self.reasons)}
        return SavedPlan(self.plan, self.micro_batch_size, self.predicted(), said)

    def predicted(self) -> dict[str, Any]:
        """The winner's figures as plain data."""
        figures = self.prediction.as_dict() | {"tokens_per_s": self.tokens_per_s}
        return figures | ({} if self.mfu is None else {"mfu": self.mfu})


@collector_paused()
def best_plan(problem: Problem) -> Answer:
    """The fastest plan that fits the memory.

    Raises:
        ValueError: none does, or the batch cannot be shared; with the nearest problem that works.
    """
    search = Search(problem)
    best = search.best()
    if best is None:
        refuse(problem)
    return Answer(problem, _in_full(best), _rivals(search, best), search.counts)


def plan_of(candidate: Candidate) -> Plan:
    """A candidate as a plan, whose schedule is the one that was simulated."""
    priced, layout = candidate.priced, candidate.priced.layout
    return Plan(
        **vars(candidate.order),
        pp_size=layout.pp_size,
        num_chunks=layout.placement.num_chunks,
        num_microbatches=priced.num_microbatches,
        dp_shard=layout.dp_shard,
        dp_replicate=layout.dp_replicate,
        split=priced.stages.split,
        recompute=layout.setting.recompute,
        costs=priced.made_for(candidate.order),
    )


def _in_full(best: Candidate) -> Candidate:
    """With the whole batch simulated, where that does not take long."""
    if not best.prediction.extended:
        return best
    made = made_order(best.priced, best.order, _FULL_ACTIONS)
    return replace(best, prediction=predict(best.priced, best.order, made))


def _rivals(search: Search, best: Candidate) -> tuple[Rival, ...]:
    own, at_most = _family_of(best.priced.layout, best.order), _LOOKED_FOR_UP_TO * best.step_s
    found = [
        Rival(name, search.best(_of_family(name), at_most, _EFFORT))
        for name in _FAMILIES
        if name != own
    ]
    return tuple(sorted(found, key=lambda rival: rival.step_s))


def _of_family(name: str) -> Wanted:
    return lambda layout, order: _family_of(layout, order) == name


class Point(NamedTuple):
    """The winner's layout with another unit size."""

    unit_size: int
    prediction: Prediction
    fits: bool


def over_unit_sizes(answer: Answer) -> tuple[Point, ...]:
    """ZeroPP in units of 1, 2, 4, ... micro-batches, the winner's U and B, at the winner's layout.

    Slots are the schedule's default for each U.
    """
    priced, own, usable = answer.best.priced, answer.best.order, answer.problem.usable
    batch = priced.num_microbatches
    sizes = {2**k for k in range(batch.bit_length())} | {batch, own.unit_size or batch}
    seam = "carry" if priced.layout.pp_size > 1 else "drain"
    points = []
    for U in sorted(size for size in sizes if size <= batch):
        order = Order("zeropp", U, seam, max_resident=own.max_resident)
        found = predict(priced, order, made_order(priced, order))
        points.append(Point(U, found, found.peak_bytes <= usable))
    return tuple(points)

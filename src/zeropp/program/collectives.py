"""Insert UNSHARD, RESHARD and REDUCE: when parameters are gathered and gradients reduced.

    policy       gathered                                reduced
    unit         once per visit of a stage               after the unit's last W of the stage
    step         once per step                           after the step's last W of the stage
    microbatch   for every F and every backward          after every W

A visit lasts while its stage stays among the `max_resident` stages that are needed soonest, so
the turn-arounds (last chunk F to B, first chunk B to the next unit's F) gather nothing twice.
With one resident stage the paper's order gathers 1 + (2V-2)B/U times per rank.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple

from zeropp.ir.action import NEEDS_PARAMETERS, WEIGHT, Action, Kind
from zeropp.ir.program import Program
from zeropp.ir.schedule import Schedule

Order = tuple[Action, ...]  # a rank's


class Policy(StrEnum):
    """How often parameters are gathered and gradients reduced."""

    UNIT = "unit"
    STEP = "step"
    MICROBATCH = "microbatch"


def shard(schedule: Schedule, policy: str, max_resident: int = 2, prefetch: int = 1) -> Program:
    """The schedule with its collectives; `lower` explains the knobs."""
    if policy not in list(Policy):
        raise ValueError(f"shard must be one of {', '.join(Policy)}, got {policy!r}")
    if max_resident < 1:
        raise ValueError(f"max_resident must be at least 1, got {max_resident}")
    if prefetch < 0:
        raise ValueError(f"prefetch must be 0 or more, got {prefetch}")
    policy, chunks = Policy(policy), schedule.placement.num_chunks
    residents = {Policy.UNIT: max_resident, Policy.STEP: chunks, Policy.MICROBATCH: 1}
    limit = min(residents[policy], chunks)
    actions = []
    for order in schedule.actions:
        gathers = _gathers(order, policy, limit, prefetch)
        actions.append(tuple(_insert(order, gathers, _reduces(order, policy, schedule.unit_of))))
    return Program(schedule, tuple(actions), str(policy), limit)


class _Gather(NamedTuple):
    """Parameters of `stage` are gathered before action `first` and freed after action `last`."""

    stage: int
    first: int
    last: int


def _gathers(order: Order, policy: Policy, limit: int, prefetch: int) -> Iterable[_Gather]:
    uses = [_Gather(a.stage, i, i) for i, a in enumerate(order) if a.kind in NEEDS_PARAMETERS]
    if policy is Policy.MICROBATCH:
        return uses
    return _prefetched(_visits(uses, limit), limit, prefetch, len(order))


def _visits(uses: list[_Gather], limit: int) -> list[_Gather]:
    """Visits of stages, keeping the `limit` stages that are needed soonest (Belady's rule)."""
    later: dict[int, list[int]] = defaultdict(list)
    for use in reversed(uses):
        later[use.stage].append(use.first)
    resident: dict[int, _Gather] = {}
    visits: list[_Gather] = []
    for use in uses:
        later[use.stage].pop()
        if use.stage not in resident and len(resident) == limit:
            latest = max(resident, key=lambda stage: later[stage][-1])
            visits.append(resident.pop(latest))
        first = resident.get(use.stage, use).first
        resident[use.stage] = _Gather(use.stage, first, use.last)
        if not later[use.stage]:
            visits.append(resident.pop(use.stage))
    return sorted(visits, key=lambda visit: visit.first)


def _prefetched(visits: list[_Gather], limit: int, prefetch: int, length: int) -> Iterator[_Gather]:
    """Move each gather up to `prefetch` actions ahead, while fewer than `limit` are resident."""
    occupied = [0] * length
    freed: dict[int, int] = defaultdict(lambda: -1)
    for visit in visits:
        for index in range(visit.first, visit.last + 1):
            occupied[index] += 1
    for stage, first, last in visits:
        earliest = max(first - prefetch, freed[stage] + 1, 0)
        start = first
        while start > earliest and occupied[start - 1] < limit:
            start -= 1
            occupied[start] += 1
        freed[stage] = last
        yield _Gather(stage, start, last)


def _reduces(order: Order, policy: Policy, unit_of: tuple[int, ...]) -> dict[int, int]:
    """After which action's index which stage is reduced."""
    batch = range(len(unit_of))
    spans = {Policy.UNIT: unit_of, Policy.STEP: [0 for _ in batch], Policy.MICROBATCH: batch}
    span_of: Sequence[int] = spans[policy]
    last: dict[tuple[int, int], int] = {}
    for index, (kind, stage, m) in enumerate(order):
        if kind in WEIGHT and m is not None:
            last[stage, span_of[m]] = index
    return {index: stage for (stage, _), index in last.items()}


def _insert(order: Order, gathers: Iterable[_Gather], reduces: dict[int, int]) -> Iterator[Action]:
    before: dict[int, list[int]] = defaultdict(list)
    after: dict[int, list[int]] = defaultdict(list)
    for stage, first, last in gathers:
        before[first].append(stage)
        after[last].append(stage)
    for index, action in enumerate(order):
        yield from (Action(Kind.UNSHARD, stage) for stage in before[index])
        yield action
        yield from (Action(Kind.RESHARD, stage) for stage in after[index])
        if index in reduces:
            yield Action(Kind.REDUCE, reduces[index])

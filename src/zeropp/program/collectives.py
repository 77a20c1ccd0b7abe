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
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

from zeropp.ir.action import NEEDS_PARAMETERS, WEIGHT, Action, Kind
from zeropp.ir.program import Program
from zeropp.ir.schedule import Schedule


class Policy(StrEnum):
    """How often parameters are gathered and gradients reduced."""

    UNIT = "unit"
    STEP = "step"
    MICROBATCH = "microbatch"


def shard(schedule: Schedule, policy: str, max_resident: int = 2, prefetch: int = 1) -> Program:
    """The schedule with its collectives.

    Args:
        schedule: compute actions.
        policy: `unit`, `step` or `microbatch`.
        max_resident: for `unit`, most stages of a rank whose parameters are gathered at once,
            those on their way included.
        prefetch: for `unit` and `step`, how many compute actions before its first use a gather is
            issued, as far as `max_resident` leaves room.

    Raises:
        ValueError: unknown policy, or a number out of range.
    """
    if policy not in list(Policy):
        raise ValueError(f"shard must be one of {', '.join(Policy)}, got {policy!r}")
    if max_resident < 1:
        raise ValueError(f"max_resident must be at least 1, got {max_resident}")
    if prefetch < 0:
        raise ValueError(f"prefetch must be 0 or more, got {prefetch}")
    if policy == Policy.MICROBATCH:
        limit = 1
    else:
        chunks = schedule.placement.num_chunks
        limit = min(max_resident, chunks) if policy == Policy.UNIT else chunks
    actions = tuple(
        tuple(
            _insert(
                order, _gathers(order, policy, limit, prefetch), _reduces(schedule, rank, policy)
            )
        )
        for rank, order in enumerate(schedule.actions)
    )
    return Program(schedule, actions, shard=str(policy), max_resident=limit)


class _Gather(NamedTuple):
    """Parameters of `stage` are gathered before action `first` and freed after action `last`."""

    stage: int
    first: int
    last: int


def _gathers(
    order: tuple[Action, ...], policy: str, limit: int, prefetch: int
) -> Iterator[_Gather]:
    if policy == Policy.MICROBATCH:
        uses = (index for index, a in enumerate(order) if a.kind in NEEDS_PARAMETERS)
        return (_Gather(order[index].stage, index, index) for index in uses)
    return _prefetched(_visits(order, limit), limit, prefetch, len(order))


def _visits(order: tuple[Action, ...], limit: int) -> list[_Gather]:
    """Visits of stages, keeping the `limit` stages that are needed soonest (Belady's rule)."""
    uses: dict[int, list[int]] = defaultdict(list)
    for index in range(len(order) - 1, -1, -1):
        if order[index].kind in NEEDS_PARAMETERS:
            uses[order[index].stage].append(index)
    resident: dict[int, _Gather] = {}
    visits: list[_Gather] = []
    for index, action in enumerate(order):
        if action.kind not in NEEDS_PARAMETERS:
            continue
        stage = action.stage
        uses[stage].pop()
        if stage not in resident and len(resident) == limit:
            latest = max(resident, key=lambda s: uses[s][-1])
            visits.append(resident.pop(latest))
        first = resident[stage].first if stage in resident else index
        resident[stage] = _Gather(stage, first, index)
        if not uses[stage]:
            visits.append(resident.pop(stage))
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


def _reduces(schedule: Schedule, rank: int, policy: str) -> dict[int, int]:
    """After which action's index which stage is reduced."""
    last: dict[tuple[int, int | None], int] = {}
    for index, (kind, stage, m) in enumerate(schedule.actions[rank]):
        if kind in WEIGHT and m is not None:
            span = {Policy.UNIT: schedule.unit_of[m], Policy.STEP: None, Policy.MICROBATCH: m}
            last[stage, span[Policy(policy)]] = index
    return {index: stage for (stage, _), index in last.items()}


def _insert(
    order: tuple[Action, ...], gathers: Iterator[_Gather], reduces: dict[int, int]
) -> Iterator[Action]:
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

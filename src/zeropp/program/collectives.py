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
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import NamedTuple

from zeropp.ir.action import NEEDS_PARAMETERS, WEIGHT, Action, Kind
from zeropp.ir.program import Policy, Program
from zeropp.ir.schedule import Schedule

Order = tuple[Action, ...]  # a rank's


def shard(
    schedule: Schedule, policy: str, max_resident: int = 2, prefetch: int | None = None
) -> Program:
    """The schedule with its collectives; `lower` explains the knobs."""
    if policy not in list(Policy):
        raise ValueError(f"shard must be one of {', '.join(Policy)}, got {policy!r}")
    if max_resident < 1:
        raise ValueError(f"max_resident must be at least 1, got {max_resident}")
    if prefetch is not None and prefetch < 0:
        raise ValueError(f"prefetch must be 0 or more, got {prefetch}")
    chunks, B = schedule.placement.num_chunks, schedule.num_microbatches
    unit_of = [unit for unit, size in enumerate(schedule.units) for _ in range(size)]
    # most stages gathered at once, and for each micro-batch the span that is reduced together
    rules: dict[str, tuple[int, Sequence[int]]] = {
        Policy.UNIT: (max_resident, unit_of),
        Policy.STEP: (chunks, [0] * B),
        Policy.MICROBATCH: (1, range(B)),
    }
    residents, span_of = rules[policy]
    limit = min(residents, chunks)
    actions = []
    for order in schedule.actions:
        uses = [(s, i) for i, (kind, s, _) in enumerate(order) if kind in NEEDS_PARAMETERS]
        if policy == Policy.MICROBATCH:
            gathers: Iterable[Visit] = [Visit(stage, i, i) for stage, i in uses]
        else:
            gathers = visits(_runs(uses), limit, prefetch)
        actions.append(tuple(_insert(order, gathers, _reduces(order, span_of))))
    return Program(schedule, tuple(actions), str(policy), limit)


class Visit(NamedTuple):
    """Parameters of `stage` are gathered before action `first` and freed after action `last`."""

    stage: int
    first: int
    last: int


def _runs(uses: Iterable[tuple[int, int]]) -> list[Visit]:
    """Uses, each a stage and an index, of the same stage one after the other, as one visit."""
    runs = ((stage, list(run)) for stage, run in groupby(uses, key=itemgetter(0)))
    return [Visit(stage, run[0][1], run[-1][1]) for stage, run in runs]


def visits(uses: Sequence[Visit], limit: int, prefetch: int | None = None) -> Iterable[Visit]:
    """Visits of stages, keeping the `limit` stages that are needed soonest (Belady's rule).

    `uses` are of the actions of a rank that need parameters; `prefetch` bounds how many
    actions ahead a gather is issued.
    """
    later: dict[int, list[int]] = defaultdict(list)
    for use in reversed(uses):
        later[use.stage].append(use.first)
    resident = dict[int, Visit]()
    found = list[Visit]()
    for use in uses:
        later[use.stage].pop()
        if use.stage not in resident and len(resident) == limit:
            latest = max(resident, key=lambda stage: later[stage][-1])
            found.append(resident.pop(latest))
        first = resident.get(use.stage, use).first
        resident[use.stage] = Visit(use.stage, first, use.last)
        if not later[use.stage]:
            found.append(resident.pop(use.stage))
    return _prefetched(sorted(found, key=attrgetter("first")), limit, prefetch)


def _prefetched(found: list[Visit], limit: int, prefetch: int | None) -> Iterator[Visit]:
    """Move each gather ahead, while fewer than `limit` are resident."""
    occupied = [0] * (1 + max((visit.last for visit in found), default=0))
    freed: dict[int, int] = defaultdict(lambda: -1)
    for visit in found:
        for index in range(visit.first, visit.last + 1):
            occupied[index] += 1
    for stage, first, last in found:
        earliest = max(0 if prefetch is None else first - prefetch, freed[stage] + 1, 0)
        start = first
        while start > earliest and occupied[start - 1] < limit:
            start -= 1
            occupied[start] += 1
        freed[stage] = last
        yield Visit(stage, start, last)


def _reduces(order: Order, span_of: Sequence[int]) -> dict[int, int]:
    """After which action's index which stage is reduced."""
    last: dict[tuple[int, int], int] = {}
    for index, (kind, stage, m) in enumerate(order):
        if kind in WEIGHT and m is not None:
            last[stage, span_of[m]] = index
    return {index: stage for (stage, _), index in last.items()}


def _insert(order: Order, gathers: Iterable[Visit], reduces: dict[int, int]) -> list[Action]:
    before: dict[int, list[int]] = defaultdict(list)
    after: dict[int, list[int]] = defaultdict(list)
    for stage, first, last in gathers:
        before[first].append(stage)
        after[last].append(stage)
    made: list[Action] = []
    for index, action in enumerate(order):
        if index in before:
            made += [Action(Kind.UNSHARD, stage) for stage in before[index]]
        made.append(action)
        if index in after:
            made += [Action(Kind.RESHARD, stage) for stage in after[index]]
        if index in reduces:
            made.append(Action(Kind.REDUCE, reduces[index]))
    return made

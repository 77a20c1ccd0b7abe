"""How long F, B and W of every stage take, measured during steps at little cost."""

from collections import defaultdict
from statistics import median
from typing import Any

import torch
import torch.distributed as dist

from zeropp.costs import Costs
from zeropp.ir import Action, Kind, Placement
from zeropp.measure.clock import clock_of
from zeropp.runtime.observer import Phase

Medians = dict[tuple[Kind, int], float]


class StageTimes:
    """Records the compute of one rank: pass it to `Pipeline.step` as its observer."""

    def __init__(self, device: torch.device) -> None:
        self._clock = clock_of(device)
        self._began: Any = None
        self._spans: dict[tuple[Kind, int], list[tuple[Any, Any]]] = defaultdict(list)

    def observe(self, action: Action, phase: Phase) -> None:
        """A phase of an action ends."""
        now = self._clock.now()
        if phase is Phase.COMPUTE:
            self._spans[action.kind, action.stage].append((self._began, now))
        self._began = now

    def take(self) -> Medians:
        """Medians over all that was recorded since the last time, in seconds."""
        self._clock.settle()
        spans, self._spans = self._spans, defaultdict(list)
        seconds = self._clock.seconds
        return {key: median(seconds(*span) for span in found) for key, found in spans.items()}


def gathered_costs(own: Medians, placement: Placement, latency: float) -> Costs | None:
    """The costs of all stages; collective on all ranks, the same on each.

    A stage that several data-parallel ranks hold takes as long as on the slowest, for which the
    others wait. None where backwards are fused, so that B and W are not known apart.
    """
    every: list[Medians | None] = [None] * dist.get_world_size()
    dist.all_gather_object(every, own)
    slowest: Medians = {}
    for medians in every:
        for key, seconds in (medians or {}).items():
            slowest[key] = max(seconds, slowest.get(key, 0.0))
    stages = range(placement.num_stages)
    if any((Kind.W, stage) not in slowest for stage in stages):
        return None
    forward, backward, weight = (
        tuple(slowest[kind, stage] for stage in stages) for kind in (Kind.F, Kind.B, Kind.W)
    )
    return Costs(forward, backward, weight, latency)

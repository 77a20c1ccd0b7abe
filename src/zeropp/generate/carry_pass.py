"""One pass over time: whenever a rank is free, a rule chooses whether F, B or W runs next.

Ranks take their turns in event order, so that every arrival up to now is known when a rank chooses.
What a rank starts makes an input of a neighbour arrive:

    F of rank p       F of rank p+1, or the next chunk's F on rank 0, or B of the last stage
    B of rank p       B of rank p-1, or the previous chunk's B on the last rank
"""

from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import repeat

from zeropp.generate.carry_choice import IDLE, NEVER, B, F, Progress, Rule, W
from zeropp.generate.carry_problem import Orders, Problem
from zeropp.ir.action import Action, Kind


@dataclass(frozen=True)
class Outcome:
    """What a pass found: for each rank its kinds in order (0 F, 1 B, 2 W), and the makespan."""

    orders: Orders
    kinds: tuple[bytes, ...]
    makespan: int

    def actions(self) -> tuple[tuple[Action, ...], ...]:
        """The kinds as actions of the loop placement."""
        return tuple(map(self._rank_actions, range(len(self.kinds))))

    def _rank_actions(self, rank: int) -> tuple[Action, ...]:
        P, microbatches = len(self.kinds), self.orders.microbatch
        queues = [
            map(Action, repeat(kind), [chunk * P + rank for chunk in chunks], microbatches)
            for kind, chunks in zip((Kind.F, Kind.B, Kind.W), self.orders.chunk, strict=True)
        ]
        return tuple([next(queues[kind]) for kind in self.kinds[rank]])


def run_pass(
    problem: Problem, orders: Orders, slots: int, rule: Rule, limit: int
) -> Outcome | None:
    """Interleave F, B and W by `rule`; `slots` is at least (V-1)U+1 for the largest unit U.

    None if that takes more than `limit` ticks, which shows as soon as a rank has idled too long, or
    if the ranks' rhythms wait for each other.
    """
    progress = Progress.at_start(problem, orders, slots)
    choose = rule.choice(progress)
    ranks = range(problem.pp_size)
    free, wake = [0 for _ in ranks], [0 for _ in ranks]  # busy until; asleep until (0: awake)
    spare = [limit - sum(orders.units) * problem.work(rank) for rank in ranks]
    kinds = [bytearray() for _ in ranks]
    heap = [(0, rank) for rank in ranks]
    started, arrivals = progress.started, progress.arrivals
    edge, step = (problem.pp_size - 1, 0), (1, -1)
    while heap:
        now, rank = heappop(heap)
        if now < free[rank]:
            continue
        kind, when = choose(rank, now)
        wake[rank] = when if kind == IDLE else 0
        if kind == IDLE:
            if when < NEVER:
                heappush(heap, (when, rank))
            continue
        spare[rank] -= now - free[rank]
        if spare[rank] < 0:
            return None
        kinds[rank].append(kind)
        index = started[kind][rank]
        started[kind][rank] = index + 1
        end = now + problem.durations[kind][rank][orders.chunk[kind][index]]
        free[rank] = end
        heappush(heap, (end, rank))
        if kind == W:
            continue
        if rank != edge[kind]:
            neighbour = rank + step[kind]
        else:
            neighbour, index = edge[1 - kind], orders.wrap[kind][index]
            if index < 0:
                if kind == F:
                    arrivals[B][rank][~index] = end
                continue
        arrival = end + problem.latency if neighbour != rank else end
        arrivals[kind][neighbour][index] = arrival
        if arrival < wake[neighbour]:
            wake[neighbour] = arrival
            heappush(heap, (arrival, neighbour))
    if min(started[W]) < len(orders):
        return None
    return Outcome(orders, tuple(map(bytes, kinds)), max(free))

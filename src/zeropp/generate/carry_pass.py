"""One pass over time: whenever a rank is free, a rule chooses between its next F, its next B and W.

Every rule gives rank p a **depth**, the most forwards that it lets run ahead of its backwards:
(V-1)U to reach the last chunk, one to turn around there, and `slope` more for each hop between it
and the last rank. Slots beyond the depth are for waiting W's, of which the oldest runs first.

    eager      a ready B, else a ready F within depth and slots, else the oldest W, unless something
               arrives before `patience` of that W is over; a W goes first if it blocks a ready F
    rhythm     fixed by counts: F up to the depth, then B; W once more wait than the depth leaves
               slots for; the rank waits for whatever is next

At equal times, slope 1 is 1F1B's depth and a rhythm with it ZB-H1's order; slope 2 is the drained
order's depth, which lets a rank run forwards until its first B is back from the last rank.

Ranks take their turns in event order, so that every arrival up to now is known when a rank chooses.
What a rank starts makes an input of a neighbour arrive:

    F of rank p       F of rank p+1, or the next chunk's F on rank 0, or B of the last stage
    B of rank p       B of rank p-1, or the previous chunk's B on the last rank
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import repeat
from math import ceil

from zeropp.generate.carry_problem import Orders, Problem
from zeropp.ir.action import Action, Kind

F, B, W, IDLE = range(4)
NEVER = 1 << 62

Choice = Callable[[int, int], tuple[int, int]]  # rank, now -> what to run, when to look again


@dataclass(frozen=True)
class Rule:
    """How ranks choose."""

    slope: float  # forwards of depth per hop to the last rank
    # the share of a W for which an eager rank would rather wait; None: keep the rhythm
    patience: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What a pass found: for each rank its kinds in order (0 F, 1 B, 2 W), and the makespan."""

    orders: Orders
    kinds: tuple[bytes, ...]
    makespan: int

    def order(self, rank: int) -> Iterator[Action]:
        """The kinds of `rank` as actions of the loop placement."""
        P, microbatches = len(self.kinds), self.orders.microbatch
        queues = [
            map(Action, repeat(kind), [chunk * P + rank for chunk in chunks], microbatches)
            for kind, chunks in zip((Kind.F, Kind.B, Kind.W), self.orders.chunk, strict=True)
        ]
        return (next(queues[kind]) for kind in self.kinds[rank])


def run_pass(
    problem: Problem, orders: Orders, slots: int, rule: Rule, limit: int
) -> Outcome | None:
    """Interleave F, B and W by `rule`; `slots` is at least (V-1)U+1 for the largest unit U.

    None if that takes more than `limit` ticks, which shows as soon as a rank has idled too long, or
    if the ranks' rhythms wait for each other.
    """
    progress = _Progress.at_start(problem, orders, slots)
    choose = progress.choice(rule)
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


@dataclass(frozen=True)
class _Progress:
    """What has been started, and when inputs arrive; the pass writes, the rule reads."""

    problem: Problem
    orders: Orders
    slots: int
    started: tuple[list[int], list[int], list[int]]  # for F, B and W, for each rank, how many
    # for F and B, for each rank, for each index, from when on it may run
    arrivals: tuple[list[list[int]], list[list[int]]]

    @classmethod
    def at_start(cls, problem: Problem, orders: Orders, slots: int) -> "_Progress":
        """Nothing has started; on rank 0, chunk 0 may."""
        ranks, never = range(problem.pp_size), [NEVER] * (len(orders) + 1)
        first = [NEVER if chunk else 0 for chunk in orders.chunk[F]]
        forwards = [[*first, NEVER], *([*never] for _ in ranks[1:])]
        started = [0 for _ in ranks], [0 for _ in ranks], [0 for _ in ranks]
        return cls(problem, orders, slots, started, (forwards, [[*never] for _ in ranks]))

    def choice(self, rule: Rule) -> Choice:
        """The function (rank, now) -> (what to run now, or IDLE; when to look again)."""
        hops = range(self.problem.pp_size - 1, -1, -1)
        reach = (self.problem.num_chunks - 1) * max(self.orders.units) + 1
        depth = [min(reach + ceil(rule.slope * hop), self.slots) for hop in hops]
        if rule.patience is None:
            return self._rhythm(depth)
        return self._eager(depth, rule.patience)

    def _eager(self, depth: list[int], patience: float) -> Choice:
        forwards, backwards, weights = self.started
        forward_at, backward_at = self.arrivals
        slots, chunk = self.slots, self.orders.chunk[W]
        worth_waiting = [[patience * w for w in times] for times in self.problem.durations[W]]

        def choose(rank: int, now: int) -> tuple[int, int]:
            i, j, k = forwards[rank], backwards[rank], weights[rank]
            forward, backward = forward_at[rank][i], backward_at[rank][j]
            if i - k >= slots:
                if forward <= now and k < j:
                    return W, now
                forward = NEVER
            if backward <= now:
                return B, now
            if i - j >= depth[rank]:
                forward = NEVER
            if forward <= now:
                return F, now
            arrival = min(forward, backward)
            if k < j and arrival - now >= worth_waiting[rank][chunk[k]]:
                return W, now
            return IDLE, arrival

        return choose

    def _rhythm(self, depth: list[int]) -> Choice:
        forwards, backwards, weights = self.started
        forward_at, backward_at = self.arrivals
        total, share = len(self.orders), [self.slots - d for d in depth]

        def choose(rank: int, now: int) -> tuple[int, int]:
            i, j, k = forwards[rank], backwards[rank], weights[rank]
            if j - k > share[rank] or (j == total and k < j):
                return W, now
            if i < total and i - j < depth[rank]:
                kind, when = F, forward_at[rank][i]
            else:
                kind, when = B, backward_at[rank][j]
            return (kind if when <= now else IDLE), when

        return choose

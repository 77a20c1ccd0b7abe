"""One pass over time: whenever a rank is free, a rule chooses between its next F, its next B and W.

On every rank the forwards are numbered in the order in which they run, unit by unit and chunk by
chunk upwards, and the backwards likewise downwards. Both orders are the same on all ranks, so one
number names an action on each of them. V=2, units of 2 and 1 micro-batches:

    index              0  1  2  3  4  5
    F: chunk           0  0  1  1  0  1
       micro-batch     0  1  0  1  2  2
    B: chunk           1  1  0  0  1  0
       micro-batch     0  1  0  1  2  2

F number i of rank p enables number i of rank p+1; on the last rank it enables number i+U of rank 0,
where U is the size of its unit, or, in the last chunk, the B of the same micro-batch. B number i of
rank p enables number i of rank p-1, and on rank 0 the previous chunk's on the last rank.

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
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import repeat
from math import ceil

from zeropp.costs import floor
from zeropp.generate.request import Request, in_blocks
from zeropp.ir.action import Action, Kind

F, B, W, IDLE = range(4)
NEVER = 1 << 62
_TICKS = 1_000_000  # in the first stage's F; whole numbers, so that equal times tie exactly

Choice = Callable[[int, int], tuple[int, int]]  # rank, now -> what to run, when to look again


class Problem:
    """What is asked for, on the loop placement, with times in ticks."""

    def __init__(self, request: Request, slots: int) -> None:
        costs, placement = request.costs_or_equal, request.placement()
        scale = _TICKS / costs.forward[0]
        self.slots, self.num_microbatches = slots, request.num_microbatches
        self.pp_size, self.num_chunks = request.pp_size, request.num_chunks
        # for F, B and W, for each rank, the time of each of its chunks
        self.durations = [
            [[round(times[s] * scale) for s in placement.stages_of(p)] for p in range(self.pp_size)]
            for times in (costs.forward, costs.backward, costs.weight)
        ]
        self.latency = round(costs.latency * scale)  # of a hop between ranks
        self.floor = round(floor(placement, self.num_microbatches, costs) * scale)

    def work(self, rank: int) -> int:
        """The time that the whole batch takes on `rank`."""
        return self.num_microbatches * sum(sum(by_rank[rank]) for by_rank in self.durations)


class Orders:
    """The F and B orders that all ranks share, as sequences over the index; W follows B's."""

    def __init__(self, num_chunks: int, units: tuple[int, ...]) -> None:
        self.units = units
        self.microbatch, forward_chunk, backward_chunk = list[int](), list[int](), list[int]()
        # what F of the last rank enables on rank 0, or, inverted (~), its own B of the last stage;
        # what B of rank 0 enables on the last rank, or -1 in chunk 0
        after_f, after_b = list[int](), list[int]()
        for unit in in_blocks(units):
            first, size = num_chunks * unit.start, len(unit)
            later = range(first + size, first + num_chunks * size)
            chunks = [chunk for chunk in range(num_chunks) for _ in unit]
            self.microbatch += [*unit] * num_chunks
            forward_chunk += chunks
            backward_chunk += reversed(chunks)
            after_f += [*later, *(~own for own in range(first, first + size))]
            after_b += [*later, *[-1] * size]
        self.chunk, self.wrap = (forward_chunk, backward_chunk, backward_chunk), (after_f, after_b)

    def __len__(self) -> int:
        return len(self.microbatch)


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
    kinds: list[bytearray]
    makespan: int

    def order(self, rank: int) -> Iterator[Action]:
        """The kinds of `rank` as actions of the loop placement."""
        P, microbatches = len(self.kinds), self.orders.microbatch
        queues = [
            map(Action, repeat(kind), [chunk * P + rank for chunk in chunks], microbatches)
            for kind, chunks in zip((Kind.F, Kind.B, Kind.W), self.orders.chunk, strict=True)
        ]
        return (next(queues[kind]) for kind in self.kinds[rank])


def run_pass(problem: Problem, orders: Orders, rule: Rule, limit: int) -> Outcome | None:
    """Interleave F, B and W by `rule`; there are at least (V-1)U+1 slots for the largest unit U.

    None if that takes more than `limit` ticks, which shows as soon as a rank has idled too long, or
    if the ranks' rhythms wait for each other.
    """
    progress = _Progress(problem, orders, rule)
    choose = progress.rhythm() if rule.patience is None else progress.eager(rule.patience)
    ranks = range(problem.pp_size)
    free, wake = [0 for _ in ranks], [0 for _ in ranks]  # busy until; asleep until (0: awake)
    spare = [limit - problem.work(rank) for rank in ranks]
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
    return Outcome(orders, kinds, max(free)) if min(started[W]) == len(orders) else None


class _Progress:
    """What has been started, and when inputs arrive; the pass writes, the rule reads."""

    def __init__(self, problem: Problem, orders: Orders, rule: Rule) -> None:
        self.problem, self.orders = problem, orders
        ranks, never = range(problem.pp_size), [NEVER] * (len(orders) + 1)
        # for F, B and W, for each rank, how many
        self.started = [[0 for _ in ranks] for _ in (F, B, W)]
        # for F and B, for each rank, for each index, from when on it may run
        self.arrivals = [[[*never] for _ in ranks] for _ in (F, B)]
        self.arrivals[F][0] = [*(NEVER if chunk else 0 for chunk in orders.chunk[F]), NEVER]
        reach = (problem.num_chunks - 1) * max(orders.units) + 1
        depths = [reach + ceil(rule.slope * hops) for hops in reversed(ranks)]
        self.depth = [min(depth, problem.slots) for depth in depths]

    def eager(self, patience: float) -> Choice:
        depth = self.depth
        forwards, backwards, weights = self.started
        forward_at, backward_at = self.arrivals
        slots, chunk = self.problem.slots, self.orders.chunk[W]
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

    def rhythm(self) -> Choice:
        depth = self.depth
        forwards, backwards, weights = self.started
        forward_at, backward_at = self.arrivals
        total, share = len(self.orders), [self.problem.slots - d for d in depth]

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

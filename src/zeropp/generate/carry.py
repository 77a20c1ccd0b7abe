"""ZeroPP with carried W: units back to back, their seams filled with W's of the unit before.

F order and B order are the drained order's; only their interleaving differs, and a W may run after
its unit's last B, inside the next unit. Which interleaving is best depends on the costs, so a few
are tried, each evaluated exactly by one pass over time: a few unit sizes near U times a few rules
by which a rank that is free chooses between its next F, its next B and W. The first that reaches
the floor ends the search, and a pass stops as soon as it cannot beat the best so far.

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
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from itertools import product, repeat
from math import ceil
from typing import NamedTuple

from zeropp.costs import floor
from zeropp.generate.request import Request, split_evenly, split_within
from zeropp.ir.action import Action, Kind
from zeropp.ir.placement import in_blocks
from zeropp.ir.schedule import Schedule

NEAR = 1.00001  # of the floor: as good as on it
F, B, W, IDLE = range(4)
NEVER = 1 << 62
_TICKS = 1_000_000  # in the first stage's F; whole numbers, so that equal times tie exactly
_FEWEST_PASSES, _CHEAP_ACTIONS = 10, 36_000

Sizes = tuple[int, ...]
Choice = Callable[[int, int], tuple[int, int]]  # rank, now -> what to run, when to look again


class Rule(NamedTuple):
    """How ranks choose."""

    slope: float  # forwards of depth per hop to the last rank
    # the share of a W for which an eager rank would rather wait; None: keep the rhythm
    patience: float | None = None


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


_RULES = (Rule(2, 0.25), Rule(2, 0.0), Rule(2, 0.5), Rule(1), Rule(1.75), Rule(1, 0.75), Rule(2))


def carried(request: Request) -> Schedule:
    """The best order found within `slots`."""
    V, unit_size = request.num_chunks, request.unit_size_or_ranks
    slots = request.slots or default_slots(request)
    largest = split_within(request.num_microbatches, unit_size)[0]
    # one micro-batch must reach the last chunk while all of its unit wait in the others
    if slots < (needed := (V - 1) * largest + 1):
        raise ValueError(
            f"slots: rank 0, as every rank, needs at least {needed} ((num_chunks - 1) x {largest} "
            f"micro-batches of a unit + 1), got {slots}; raise slots or lower unit_size"
        )
    found = _search(Problem(request, slots), request.unit_size)
    params = (("seam", "carry"), ("slots", str(slots)), ("unit_size", str(unit_size)))
    return replace(request.schedule("zeropp", found.order), units=found.orders.units, params=params)


def default_slots(request: Request) -> int:
    """Those of interleaved 1F1B: PV+P-1 at U=P."""
    P, V = request.pp_size, request.num_chunks
    return (V - 1) * max(request.unit_size_or_ranks, P) + 2 * P - 1


def _search(problem: Problem, unit_size: int | None) -> Outcome:
    """The best of a few passes; guesses of units and rules are tried from the best pair on."""
    guesses = [Orders(problem.num_chunks, units) for units in _unit_sizes(problem, unit_size)]
    pairs = product(range(len(guesses)), range(len(_RULES)))
    actions = 3 * problem.pp_size * len(guesses[0])
    best, limit = None, NEVER
    passes = max(_FEWEST_PASSES, _CHEAP_ACTIONS // actions)
    for guess, rule in sorted(pairs, key=sum)[:passes]:
        found = run_pass(problem, guesses[guess], _RULES[rule], limit)
        if found is None:
            continue
        best, limit = found, found.makespan - 1
        if found.makespan <= problem.floor * NEAR:
            break
    assert best is not None, "an eager pass always ends"
    return best


def _unit_sizes(problem: Problem, unit_size: int | None) -> list[Sizes]:
    """Unit sizes that sum to B, best guess first, each once; all fit the slots.

    F's of the next chunk reach rank 0 one round after those of the last: a unit hides that round if
    its own F's last as long, which takes P micro-batches at equal stages and free P2P, and more
    where hops cost time. Later units have W's and B's to fill the wait with; the first has nothing.

        B=26, U=P=8, a hop of F/8      nearly equal, none above U      7 7 6 6
                                       nearly equal, one unit fewer    9 9 8
                                       a first unit that hides its
                                       round, then nearly equal        9 6 6 5
                                       the same, one unit fewer        9 9 8
                                       nearly equal, two units fewer   13 13
                                       all hide their round            13 13

    `unit_size` None stands for P. Where it is given, no unit but the first reaches twice that; the
    first guess has no unit above it.
    """
    total = problem.num_microbatches
    near = unit_size or min(problem.pp_size, total)
    even = _nearly_equal(total, near)
    if problem.num_chunks == 1:
        return even[:1]  # the orders are the same for all sizes
    hiding = _hiding_size(problem)
    led: list[Sizes] = []
    if near < hiding < total:
        led = [(hiding, *rest) for rest in _nearly_equal(total - hiding, near)]
    guesses = [*even[1:2], *led[:2], *even[2:]]
    if unit_size is None:
        guesses.append(split_evenly(total, max(1, total // hiding)))
    else:
        guesses = [sizes for sizes in guesses if max(sizes[1:] or sizes) < 2 * unit_size]
    fitting = [s for s in guesses if (problem.num_chunks - 1) * max(s) < problem.slots]
    return list(dict.fromkeys([even[0], *fitting]))


def _nearly_equal(total: int, largest: int) -> list[Sizes]:
    """With the fewest units that keep all within `largest`, then with one and two units fewer."""
    parts = len(split_within(total, largest))
    return [split_evenly(total, n) for n in range(parts, max(0, parts - 3), -1)]


def _hiding_size(problem: Problem) -> int:
    """The fewest micro-batches whose F's, in the slowest stage, last for one round of any chunk."""
    hops = problem.pp_size * problem.latency
    by_chunk = zip(*problem.durations[0], strict=True)
    sizes: list[int] = [-(-(sum(times) + hops) // max(times)) for times in by_chunk]
    return max(sizes)


def run_pass(problem: Problem, orders: Orders, rule: Rule, limit: int) -> Outcome | None:
    """Interleave F, B and W by `rule`; there are at least (V-1)U+1 slots for the largest unit U.

    None if that takes more than `limit` ticks, which shows as soon as a rank has idled too long, or
    if the ranks' rhythms wait for each other.
    """
    progress = _Progress(problem, orders, rule)
    choose = progress.rhythm() if rule.patience is None else progress.eager(rule.patience)
    ranks = range(problem.pp_size)
    free, wake = [0 for _ in ranks], [0 for _ in ranks]  # busy until; asleep until (0: awake)
    work = [sum(map(sum, times)) for times in zip(*problem.durations, strict=True)]
    spare = [limit - problem.num_microbatches * one for one in work]  # idle time left
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

"""One pass through simulated time: whenever a rank is free, a rule says what it runs next.

Actions are flat numbers, times whole ticks, so that a pass is quick and equal times tie exactly:

    F, B and W of (stage, micro-batch)      (stage * B + micro-batch) + 0, 1 or 2 times S * B

so number // B tells kind and stage, whose duration is looked up. F of a stage enables number + B,
the F of the next; in the last stage its own B; and B enables number - B. Whoever writes a rule sees
when the inputs of each F and B arrive, and runs a W only after its B.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace

from zeropp.costs import Costs, floor
from zeropp.ir.action import Action, Kind, new_action
from zeropp.ir.placement import Placement

NEAR = 1.00001  # of the floor: as good as on it
NEVER = 1 << 62
IDLE = -1
_TICKS = 1_000_000  # in the first stage's F
_KINDS = (Kind.F, Kind.B, Kind.W)

Choice = Callable[[int, int], tuple[int, int]]  # rank, now -> what to run, or IDLE and until when
Rule = Callable[[list[int]], Choice]  # from the arrivals, which the pass writes


class Problem:
    """Sizes, the most activations that a rank holds, and times in ticks.

    With `max_resident`, no more stages of a rank are gathered at once; None: all stay.
    """

    def __init__(
        self,
        placement: Placement,
        num_microbatches: int,
        costs: Costs,
        slots: int,
        max_resident: int | None = None,
    ) -> None:
        self.placement, self.num_microbatches, self.slots = placement, num_microbatches, slots
        self.pairs = placement.num_stages * num_microbatches  # of a stage and a micro-batch
        self.scale = _TICKS / costs.forward[0]
        self.latency = round(costs.latency * self.scale)  # of a hop between ranks
        # by number // B
        self.durations = self.ticks((*costs.forward, *costs.backward, *costs.weight))
        # by number; and for each F and B, its rank
        self.times = [time for time in self.durations for _ in range(num_microbatches)]
        self.ran_by = [rank for rank in placement.ranks * 2 for _ in range(num_microbatches)]
        self.gathers, self.reduces = self.ticks(costs.gather), self.ticks(costs.reduce)
        self.max_resident = max_resident or placement.num_chunks
        # whether what is gathered and reduced when takes time
        self.visited = self.max_resident < placement.num_chunks and any(self.gathers)
        self.floor = self.gathers[0] * self.visited + round(
            floor(placement, num_microbatches, costs, slots) * self.scale
        )

    def ticks(self, times: Sequence[float]) -> list[int]:
        """The times in whole ticks."""
        return [round(time * self.scale) for time in times]

    @property
    def work(self) -> list[int]:
        """For each rank, the time of all that it runs."""
        stages, own = self.placement.num_stages, [0] * self.placement.pp_size
        for index, time in enumerate(self.durations):
            own[self.placement.rank_of(index % stages)] += self.num_microbatches * time
        return own


@dataclass(frozen=True)
class Outcome:
    """What a pass found: for each rank the numbers that it runs, in order, and the makespan."""

    problem: Problem
    ran: list[list[int]]
    makespan: int

    def order(self, rank: int) -> Iterator[Action]:
        """What `rank` runs."""
        B, stages = self.problem.num_microbatches, self.problem.placement.num_stages
        for number in self.ran[rank]:
            index, microbatch = divmod(number, B)
            yield new_action((_KINDS[index // stages], index % stages, microbatch))


def run_pass(problem: Problem, rule: Rule, limit: int = NEVER) -> Outcome | None:
    """Run everything by `rule`.

    None if that takes more than `limit` ticks, which shows as soon as a rank has idled too long, or
    if the ranks end up waiting for each other.
    """
    B, pairs, latency = problem.num_microbatches, problem.pairs, problem.latency
    times, ran_by, last_f = problem.times, problem.ran_by, pairs - B
    ranks = range(problem.placement.pp_size)
    arrivals = [NEVER] * (2 * pairs + B * len(ranks))  # of what F and B need; then of nothing
    arrivals[:B] = [0] * B
    choose = rule(arrivals)
    free, wake = [0 for _ in ranks], [0 for _ in ranks]  # busy until; asleep until (0: awake)
    spare = [limit - work for work in problem.work]  # idle time left
    ran: list[list[int]] = [[] for _ in ranks]
    heap = [(0, rank) for rank in ranks]
    while heap:
        now, rank = heap[0]
        if now < free[rank]:
            heappop(heap)
            continue
        number, when = choose(rank, now)
        if number < 0:
            wake[rank] = when
            if when < NEVER:
                heapreplace(heap, (when, rank))
            else:
                heappop(heap)
            continue
        wake[rank] = 0
        spare[rank] -= now - free[rank]
        if spare[rank] < 0:
            return None
        ran[rank].append(number)
        free[rank] = end = now + times[number]
        heapreplace(heap, (end, rank))
        if number < pairs:
            enabled = number + (B if number < last_f else pairs)
        elif pairs + B <= number < 2 * pairs:
            enabled = number - B
        else:
            continue
        neighbour = ran_by[enabled]
        arrivals[enabled] = arrival = end if neighbour == rank else end + latency
        if arrival < wake[neighbour]:
            wake[neighbour] = arrival
            heappush(heap, (arrival, neighbour))
    return Outcome(problem, ran, max(free)) if sum(map(len, ran)) == 3 * pairs else None

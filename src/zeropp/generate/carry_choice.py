"""How a free rank chooses between its next F, its next B and its oldest waiting W.

Every rule gives rank p a **depth**, the most forwards that it lets run ahead of its backwards:
(V-1)U to reach the last chunk, one to turn around there, and `slope` more for each hop between it
and the last rank. Slots beyond the depth are for waiting W's.

    eager      a ready B, else a ready F within depth and slots, else the oldest W, unless something
               arrives before `patience` of that W is over; a W goes first if it blocks a ready F
    rhythm     fixed by counts: F up to the depth, then B; W once more wait than the depth leaves
               slots for; the rank waits for whatever is next

At equal times, slope 1 is 1F1B's depth and a rhythm with it ZB-H1's order; slope 2 is the drained
order's depth, which lets a rank run forwards until its first B is back from the last rank.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from zeropp.generate.carry_problem import Orders, Problem

F, B, W, IDLE = range(4)
NEVER = 1 << 62

Choice = Callable[[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Rule:
    """How ranks choose.

    Attributes:
        slope: forwards of depth per hop to the last rank.
        patience: the share of a W for which an eager rank would rather wait; None: keep the rhythm.
    """

    slope: float
    patience: float | None = None

    def choice(self, progress: "Progress") -> Choice:
        """The function (rank, now) -> (what to run now, or IDLE; when to look again)."""
        hops = range(progress.problem.pp_size - 1, -1, -1)
        reach = (progress.problem.num_chunks - 1) * max(progress.orders.units) + 1
        depth = [min(reach + ceil(self.slope * hop), progress.slots) for hop in hops]
        if self.patience is None:
            return _rhythm(progress, depth)
        return _eager(progress, depth, self.patience)


@dataclass(frozen=True)
class Progress:
    """What has been started, and when inputs arrive; the pass writes, the rule reads.

    Attributes:
        started: for F, B and W, for each rank, how many.
        arrivals: for F and B, for each rank, for each index, from when on it may run.
    """

    problem: Problem
    orders: Orders
    slots: int
    started: tuple[list[int], list[int], list[int]]
    arrivals: tuple[list[list[int]], list[list[int]]]

    @classmethod
    def at_start(cls, problem: Problem, orders: Orders, slots: int) -> "Progress":
        """Nothing has started; on rank 0, chunk 0 may."""
        ranks = range(problem.pp_size)
        arrivals = tuple([[NEVER] * (len(orders) + 1) for _ in ranks] for _ in (F, B))
        for index, chunk in enumerate(orders.chunk[F]):
            if chunk == 0:
                arrivals[F][0][index] = 0
        started = tuple([0] * problem.pp_size for _ in (F, B, W))
        return cls(problem, orders, slots, started, arrivals)  # type: ignore[arg-type]


def _eager(progress: Progress, depth: list[int], patience: float) -> Choice:
    forwards, backwards, weights = progress.started
    forward_at, backward_at = progress.arrivals
    slots, chunk = progress.slots, progress.orders.chunk[W]
    worth_waiting = [[patience * w for w in times] for times in progress.problem.durations[W]]

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


def _rhythm(progress: Progress, depth: list[int]) -> Choice:
    forwards, backwards, weights = progress.started
    forward_at, backward_at = progress.arrivals
    total, share = len(progress.orders), [progress.slots - d for d in depth]

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

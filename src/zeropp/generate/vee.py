"""Vees of controllable memory: ZB-V, V-Half and V-Min are building blocks, repeated and squeezed.

Source: "Pipeline Parallelism with Controllable Memory", Qi et al. 2024, arXiv 2405.15362. Our
derivation. A building block is the ticks of one micro-batch's F and B. Each pass of a chunk takes
one tick; a new micro-batch enters every six ticks, as each rank owes it six passes (F, B and W of
two chunks). The block fixes how many ticks pass per hop:

    F of chunk 0 and B of chunk 1   travel from rank 0 to rank P-1   `down` ticks per hop
    F of chunk 1 and B of chunk 0   travel from rank P-1 to rank 0   `up` ticks per hop

    down=1, up=2, P=3, no waits at the turns (F0: the forward of chunk 0)
    rank 0  F0  .  .  .  .  .  . F1 B1  .  .  .  .  .  . B0
    rank 1   . F0  .  .  . F1  .  .  . B1  .  .  . B0  .  .
    rank 2   .  . F0 F1  .  .  .  .  .  . B1 B0  .  .  .  .

Memory: on rank p, chunk 0 lives from F0 to B0 and chunk 1 from F1 to B1,

    (P-1-p)(down+up) + (P-1)(down+up)  and  p(down+up),  in all 2(P-1)(down+up) ticks plus a few

on every rank alike. With one micro-batch per six ticks (P-1)(down+up)/3 slots are held, that is
about P(down+up)/6 micro-batches: P/3, P/2 and P for down+up = 2, 3 and 6.

Collisions: two passes of a rank may not fall on one tick modulo 6. F0 and B1 are equally far apart
on every rank, and so are F1 and B0; the distances between these pairs change by down+up per rank.
Waits at the turns keep all four apart; W takes the two ticks left.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from zeropp.costs import Costs
from zeropp.generate.events import IDLE, NEVER, Choice, Outcome, Problem, Rule, run_pass
from zeropp.generate.request import Request
from zeropp.generate.strict import Habit
from zeropp.ir.action import Kind
from zeropp.ir.placement import Placement, Shape
from zeropp.ir.schedule import Schedule

INTERVAL = 6

Sequences = list[list[int]]  # for each rank, its F's and B's, numbered as in a pass


@dataclass(frozen=True)
class BuildingBlock:
    """The hops and turns of one micro-batch, in ticks."""

    down: int  # per hop away from rank 0
    up: int  # per hop towards rank 0
    wait_at_first: int = 0  # between F and B of the last stage, on rank 0
    wait_at_last: int = 0  # on rank P-1, between F of stages P-1 and P, and between B of P and P-1
    early: bool = False  # whether `squeeze` pulls forwards ahead

    def slots(self, pp_size: int) -> int:
        """On every rank: 2P, 2 floor((P+2)/2) and 2 floor((P+4)/3) for down+up = 6, 3 and 2."""
        return 4 + 2 * ((self.down + self.up) * (pp_size - 2) // INTERVAL)

    def ticks(self, pp_size: int, rank: int) -> dict[tuple[Kind, int], int]:
        """When (kind, chunk) of micro-batch 0 runs on `rank`."""
        below, above = rank, pp_size - 1 - rank
        turn = (pp_size - 1) * self.down + 1 + self.wait_at_last
        first = turn + (pp_size - 1) * self.up + 1 + self.wait_at_first
        return {
            (Kind.F, 0): below * self.down,
            (Kind.F, 1): turn + above * self.up,
            (Kind.B, 1): first + below * self.down,
            (Kind.B, 0): first + turn + above * self.up,
        }

    def repeat(self, placement: Placement, num_microbatches: int) -> Sequences:
        """For each rank, F and B of every micro-batch, by their ticks."""
        B, pairs = num_microbatches, placement.num_stages * num_microbatches

        def order(rank: int) -> list[int]:
            timed = [
                (tick + INTERVAL * m, first + m)
                for (kind, chunk), tick in self.ticks(placement.pp_size, rank).items()
                for first in [placement.stage_of(rank, chunk) * B + pairs * (kind is Kind.B)]
                for m in range(B)
            ]
            return [number for _, number in sorted(timed)]

        return [order(rank) for rank in range(placement.pp_size)]


def zb_v(pp_size: int) -> BuildingBlock:
    """No idle time in 1F1B's memory (Zero Bubble, arXiv 2401.10241, section 6).

    The paper finds the order by a greedy search. With down+up = 6 ticks, all ranks look alike
    modulo 6, counted from their F0: F0 F1 B1 B0 and two W. Squeezed, rank 0 would have P forwards
    to run before F1 of micro-batch 0 is there, at tick 2P-1: forwards of chunk 0 fill that wait.
    """
    return BuildingBlock(down=1, up=5, early=True)


def v_half(pp_size: int) -> BuildingBlock:
    """Half of 1F1B's memory for half of its bubble, at equal times.

    Modulo 3 all ranks look alike, counted from their F0: F0 and B1 at 0, F1 and B0 at 2 (both turns
    at the last rank wait one tick), W at 1. F0 and B1 are 3P ticks apart, and so are F1 and B0: 3
    modulo 6 where P is odd; where P is even they would meet, and B waits three more ticks at rank
    0. The squeezed start, in which nothing waits for the ticks above, and W in the gaps at the end
    leave about half of the block's 6P ticks idle.
    """
    return BuildingBlock(down=1, up=2, wait_at_first=0 if pp_size % 2 else 3, wait_at_last=1)


def v_min(pp_size: int) -> BuildingBlock:
    """The shortest lives: a third of 1F1B's memory, two thirds of its bubble, at equal times.

    F0 and B1 fall on ticks of one parity, F1 and B0 on the other, so these pairs never meet. F0 and
    B1 are 2P ticks apart on every rank, and so are F1 and B0: where P is a multiple of 3 they would
    meet, and both turns at the last rank wait two more ticks. At unequal times neighbours wait for
    each other on every micro-batch and the bubble grows with B.
    """
    return BuildingBlock(down=1, up=1, wait_at_last=0 if pp_size % 3 else 2)


def squeezed(name: str, block_of: Callable[[int], BuildingBlock], request: Request) -> Schedule:
    """The block for these ranks, repeated and squeezed into its slots."""
    block = block_of(request.pp_size)
    placement, B = request.placement(Shape.VEE), request.num_microbatches
    equal = Costs.uniform(request.pp_size, request.num_chunks)
    problem = Problem(placement, B, equal, block.slots(request.pp_size))
    ran = squeeze(problem, block.repeat(placement, B), early=block.early)
    assert ran is not None, f"{name} stalls with {problem.slots} slots"
    return request.schedule(name, ran.order, Shape.VEE)


def squeeze(problem: Problem, sequences: Sequences, early: bool = False) -> Outcome | None:
    """Run F's and B's without the gaps in their order, and put W where a rank would idle.

    This cannot stall if no prefix of a rank's order has more than the problem's slots of F without
    their B: a rank whose slots are full before an F then has a W to run, and apart from that ranks
    wait only for predecessors, of which an order sorted by time has no cycle. What comes `early`
    keeps that so.
    """
    return run_pass(problem, follow(problem, sequences, Habit(1, 0), early))


def follow(problem: Problem, sequences: Sequences, habit: Habit, early: bool = False) -> Rule:
    """Whenever a rank is free, it runs one pass, in this order of preference:

    1. the first of the next `look` F's and B's of its order that can start and, for an F, a
       slot is free
    2. the oldest W whose B is over, unless one of those arrives before a share of it is over
    3. with `early`: the next F of chunk 0, if the order in front of it keeps the slots it needs
    """
    B, pairs, slots, look = problem.num_microbatches, problem.pairs, problem.slots, habit.look
    worth_waiting = [habit.patience * time for time in problem.durations]

    def start(arrivals: list[int]) -> Choice:
        left = [sequence[::-1] for sequence in sequences]
        waiting = [deque[int]() for _ in left]  # W's, in the order of their B's
        held = [0 for _ in left]

        def taken(rank: int, at: int) -> int:
            number = left[rank].pop(at)
            if number < pairs:
                held[rank] += 1
            else:
                waiting[rank].append(number + pairs)
            return number

        def pulled(rank: int) -> int:
            """Where in what is left the F stands that may come early; -1: nowhere."""
            todo, needed = left[rank], held[rank] + 1
            for at in range(len(todo) - 1, -1, -1):
                if needed > slots:
                    break
                if todo[at] // B == rank:  # on a vee, chunk 0 is the stage of that number
                    return at
                needed += 1 if todo[at] < pairs else -1
            return -1

        def choose(rank: int, now: int) -> tuple[int, int]:
            todo, soon, blocked = left[rank], NEVER, False
            full = held[rank] >= slots
            for at in range(-1, -1 - min(look, len(todo)), -1):
                number = todo[at]
                arrival = arrivals[number]
                if full and number < pairs:
                    blocked = blocked or (at == -1 and arrival <= now)
                elif arrival <= now:
                    return taken(rank, at), now
                elif arrival < soon:
                    soon = arrival
            if weights := waiting[rank]:
                if blocked or soon - now >= worth_waiting[weights[0] // B]:
                    held[rank] -= 1
                    return weights.popleft(), now
            elif early and (at := pulled(rank)) >= 0:
                if arrivals[todo[at]] <= now:
                    return taken(rank, at), now
                soon = min(soon, arrivals[todo[at]])
            return IDLE, soon

        return choose

    return start

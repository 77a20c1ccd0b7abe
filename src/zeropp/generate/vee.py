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

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from zeropp.generate.request import Request
from zeropp.ir.action import Action, Kind
from zeropp.ir.placement import Shape
from zeropp.ir.precedence import predecessors
from zeropp.ir.schedule import Schedule

INTERVAL = 6


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

    def repeat(self, name: str, request: Request) -> Schedule:
        """F and B of every micro-batch in the order of their ticks; W is left out."""
        placement = request.placement(Shape.VEE)

        def order(rank: int) -> list[Action]:
            timed = {
                Action(kind, placement.stage_of(rank, chunk), m): tick + INTERVAL * m
                for (kind, chunk), tick in self.ticks(placement.pp_size, rank).items()
                for m in range(request.num_microbatches)
            }
            return sorted(timed, key=timed.__getitem__)

        return request.schedule(name, order, Shape.VEE)


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
    """The block for these ranks, repeated and squeezed."""
    block = block_of(request.pp_size)
    return squeeze(block.repeat(name, request), block.slots(request.pp_size), block.early)


def squeeze(order: Schedule, slots: int, early: bool = False) -> Schedule:
    """Run `order` without its gaps in at most `slots` slots, and put W where a rank would idle.

    In each tick a rank runs one pass, in this order of preference:

        1. the next F or B of its order, if it can start and, for an F, a slot is free
        2. the oldest W whose B is over
        3. with `early`: the next F of chunk 0, if the order in front of it keeps the slots it needs

    This cannot stall if no prefix of a rank's order has more than `slots` F without their B: a rank
    whose slots are full before an F then has a W to run, and apart from that ranks wait only for
    predecessors, of which an order sorted by time has no cycle. Rule 3 keeps that so.
    """
    ranks = [
        _Rank(actions, slots, order.placement.stage_of(rank, 0) if early else None)
        for rank, actions in enumerate(order.actions)
    ]
    done: set[Action] = set()

    def ready(action: Action) -> bool:
        return done.issuperset(predecessors(action, order))

    while any(rank.todo or rank.weights for rank in ranks):
        ran = [action for rank in ranks if (action := rank.next(ready)) is not None]
        assert ran, f"{order.name} stalls with {slots} slots"
        done.update(ran)
    return replace(order, actions=tuple(tuple(rank.ran) for rank in ranks))


class _Rank:
    """What one rank has yet to run, and what it holds."""

    def __init__(self, todo: Sequence[Action], slots: int, early_stage: int | None) -> None:
        self.todo, self.slots, self.early_stage = list(todo), slots, early_stage
        self.weights, self.ran = list[Action](), list[Action]()
        self.held = 0

    def next(self, ready: Callable[[Action], bool]) -> Action | None:
        """Run the first that may run in this tick; None: idle."""
        action = next(filter(ready, self._candidates()), None)
        if action is not None:
            (self.weights if action.kind is Kind.W else self.todo).remove(action)
            self.ran.append(action)
            self.held += {Kind.F: 1, Kind.W: -1}.get(action.kind, 0)
            if action.kind is Kind.B:
                self.weights.append(action._replace(kind=Kind.W))
        return action

    def _candidates(self) -> Iterator[Action]:
        """What the three rules allow, by preference."""
        if self.todo and (self.todo[0].kind is not Kind.F or self.held < self.slots):
            yield self.todo[0]
        yield from self.weights[:1]
        held = self.held + 1
        for action in self.todo:
            if held > self.slots:
                return
            if action.kind is Kind.F and action.stage == self.early_stage:
                yield action
                return
            held += 1 if action.kind is Kind.F else -1

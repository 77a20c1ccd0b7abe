"""Squeeze: run an order of F and B without its gaps, and put W where a rank would idle.

Every pass takes one tick. In each tick a rank runs, in this order of preference:

    1. the next F or B of its order, if it can start and, for an F, a slot is free
    2. the oldest W whose B is over
    3. with `early`: the next F of chunk 0, if the order in front of it keeps the slots it needs

This cannot stall if no prefix of a rank's order has more than `slots` F without their B: a rank
whose slots are full before an F then has a W to run, and apart from that ranks wait only for
predecessors, of which an order sorted by time has no cycle. Rule 3 keeps that so.
"""

from collections import deque
from collections.abc import Callable

from zeropp.ir.action import Action, Kind
from zeropp.ir.precedence import predecessors
from zeropp.ir.schedule import Schedule


def squeeze(order: Schedule, slots: int, early: bool = False) -> Schedule:
    """The schedule that runs `order` as soon as possible in at most `slots` slots per rank.

    Args:
        order: every F and B, no W.
        slots: activations that a rank may hold, from F until W.
        early: pull forwards of chunk 0 ahead into ticks in which a rank would idle.
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
    return Schedule(
        order.name, order.placement, order.units, tuple(tuple(rank.ran) for rank in ranks)
    )


class _Rank:
    """What one rank has yet to run, and what it holds."""

    def __init__(self, todo: tuple[Action, ...], slots: int, early_stage: int | None) -> None:
        self.todo, self.slots, self.early_stage = deque(todo), slots, early_stage
        self.weights: deque[Action] = deque()
        self.ran: list[Action] = []
        self.held = 0

    def next(self, ready: Callable[[Action], bool]) -> Action | None:
        """Choose this tick's action and note that it ran; None: idle."""
        action = self._choose(ready)
        if action is not None:
            self.ran.append(action)
            self.held += {Kind.F: 1, Kind.W: -1}.get(action.kind, 0)
            if action.kind is Kind.B:
                self.weights.append(action._replace(kind=Kind.W))
        return action

    def _choose(self, ready: Callable[[Action], bool]) -> Action | None:
        if self.todo and self._fits(self.todo[0]) and ready(self.todo[0]):
            return self.todo.popleft()
        if self.weights:
            return self.weights.popleft()
        ahead = self._early_forward()
        if ahead is None or not ready(self.todo[ahead]):
            return None
        action = self.todo[ahead]
        del self.todo[ahead]
        return action

    def _fits(self, action: Action) -> bool:
        return action.kind is not Kind.F or self.held < self.slots

    def _early_forward(self) -> int | None:
        """Where in `todo` the next F of chunk 0 is, if all before it still fits after it."""
        held = self.held + 1
        for index, action in enumerate(self.todo):
            if held > self.slots:
                return None
            if action.kind is Kind.F and action.stage == self.early_stage:
                return index
            held += 1 if action.kind is Kind.F else -1
        return None

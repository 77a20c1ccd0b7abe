"""Edits of an order by hand: an action is moved within its rank's row, any number of times."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import accumulate
from typing import NamedTuple

from zeropp.costs import Costs
from zeropp.ir import Action, Program, Schedule, Span, Timeline


class Move(NamedTuple):
    """On `rank`, what is at position `start` of the compute actions goes to position `end`."""

    rank: int
    start: int
    end: int


def moved(subject: Schedule | Program, moves: Iterable[Move]) -> Schedule | Program:
    """The schedule after these moves, one after the other; a program only where there are none,
    since its messages and collectives follow the order and have to be placed anew.

    Raises:
        ValueError: a move from or to where no action is.
    """
    moves = tuple(moves)
    if not moves:
        return subject
    schedule = subject.schedule if isinstance(subject, Program) else subject
    orders = [list(order) for order in schedule.actions]
    for move in moves:
        _move(orders, move)
    name = schedule.name.removesuffix("-edited") + "-edited"
    return replace(schedule, name=name, params=(), actions=tuple(map(tuple, orders)))


def _move(orders: list[list[Action]], move: Move) -> None:
    if not 0 <= move.rank < len(orders):
        raise ValueError(f"moves: there is no rank {move.rank}, only {len(orders)} ranks")
    order = orders[move.rank]
    for position in (move.start, move.end):
        if not 0 <= position < len(order):
            raise ValueError(
                f"moves: rank {move.rank} has {len(order)} actions, none at position {position}"
            )
    order.insert(move.end, order.pop(move.start))


def without_gaps(schedule: Schedule, costs: Costs) -> Timeline:
    """An order that cannot run, to be looked at: each rank's actions one after the other."""
    rows = []
    for order in schedule.actions:
        ends = [*accumulate(map(costs.duration, order), initial=0.0)]
        rows.append(tuple(map(Span, order, ends, ends[1:])))
    return Timeline(schedule.name, schedule.placement, tuple(rows))

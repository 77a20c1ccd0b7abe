"""On its own rank, an action comes after what it needs: predecessors, and the RECV it consumes."""

from collections.abc import Iterator

from zeropp.ir.action import COMPUTE, SENDS, Action
from zeropp.ir.precedence import incoming, predecessors, producer
from zeropp.ir.program import Program
from zeropp.ir.schedule import Schedule
from zeropp.program.violation import Violation, at


def precedence(schedule: Schedule) -> Iterator[Violation]:
    """Report compute actions that come before a predecessor on the same rank."""
    placement = schedule.placement
    for rank, order in enumerate(schedule.actions):
        done: set[Action] = set()
        for position, action in enumerate(order):
            for needed in predecessors(action, schedule):
                if placement.rank_of(needed.stage) == rank and needed not in done:
                    message = f"comes before {needed}, which it needs"
                    yield at("precedence", rank, position, order, message)
            done.add(action)


def messages_in_time(program: Program) -> Iterator[Violation]:
    """Report compute without its RECV before it, and SENDs before what they send."""
    for rank, order in enumerate(program.actions):
        done: set[Action] = set()
        for position, action in enumerate(order):
            needed = _needed(action, program)
            if needed is not None and needed not in done:
                message = f"comes before {needed}, which it needs"
                yield at("precedence", rank, position, order, message)
            done.add(action)


def _needed(action: Action, program: Program) -> Action | None:
    if action.kind in COMPUTE:
        return incoming(action, program.placement)
    if action.kind in SENDS:
        return producer(action, program.schedule)
    return None

"""How many activations a schedule holds."""

from collections.abc import Iterable

from zeropp.ir.action import WEIGHT, Action, Kind
from zeropp.ir.schedule import Schedule


def peak_slots(order: Iterable[Action]) -> int:
    """The most slots in use at once along one rank's actions.

    A slot is the activation that a rank holds from an F until the W (or BW) that frees it.
    """
    peak = held = 0
    for action in order:
        if action.kind is Kind.F:
            held += 1
            peak = max(peak, held)
        elif action.kind in WEIGHT:
            held -= 1
    return peak


def peak_slots_per_rank(schedule: Schedule) -> tuple[int, ...]:
    """`peak_slots` of every rank; a schedule without backward holds none."""
    if not schedule.trains:
        return (0,) * len(schedule.actions)
    return tuple(map(peak_slots, schedule.actions))

"""Turns: a rank's chunks take turns every P micro-batches, as interleaved schedules do."""

from zeropp.generate.request import Request, split_evenly
from zeropp.ir.action import Action, Kind


def turn_sizes(request: Request) -> tuple[int, ...]:
    """The micro-batches of each turn: P, where P divides B.

    Elsewhere the turns are of nearly equal size and none is below P (B < P: one turn of B), since
    a turn below P would leave ranks waiting for the next chunk.
    """
    total = request.num_microbatches
    return split_evenly(total, max(1, total // request.pp_size))


def in_turns(kind: Kind, stages: tuple[int, ...], turns: tuple[int, ...]) -> list[Action]:
    """One rank's actions of `kind`: in each turn, every stage runs that turn's micro-batches."""
    order: list[Action] = []
    first = 0
    for size in turns:
        order += [Action(kind, s, m) for s in stages for m in range(first, first + size)]
        first += size
    return order

"""A rank's program made ready for its stages: each action with all that is known before the step.

F, B, BW    take their input under `source`, leave their output under `target`
SEND        takes what it sends under its own action
RECV        leaves what arrives under its own action
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from zeropp.ir.action import BACKWARD, Action, Kind
from zeropp.ir.placement import Placement
from zeropp.ir.precedence import incoming, outgoing, sends_first
from zeropp.runtime.stage import Stage


class Instruction(NamedTuple):
    """One action on this rank.

    Attributes:
        action: what to do.
        stage: the stage it is done on.
        microbatch: its number, -1 where it has none.
        source: the RECV that brings the input, or, where that is made on this rank, the action
            itself; None: the input is the batch's, or the loss's gradient.
        target: the SEND that takes the output away, or the action on this rank that uses it; None:
            nobody uses it.
    """

    action: Action
    stage: Stage
    microbatch: int
    source: Action | None = None
    target: Action | None = None


def instructions(
    order: Sequence[Action], placement: Placement, stages: Mapping[int, Stage]
) -> tuple[Instruction, ...]:
    """One rank's actions, ready for `stages`, its stages by global index.

    Of a RECV and a SEND of the same moment the SEND goes first, for which another rank may be
    waiting.
    """
    as_run = (order[position] for position in sends_first(order))
    return tuple(
        Instruction(a, stages[a.stage], -1 if a[2] is None else a[2], *_ends(a, placement))
        for a in as_run
    )


_TAKES = {Kind.F: Kind.F, **dict.fromkeys(BACKWARD, Kind.B)}  # makers and users name inputs alike


def _ends(action: Action, placement: Placement) -> tuple[Action | None, Action | None]:
    """By which its input comes and its output goes: a message, or on this rank its user."""
    kind, stage, m = action
    if kind not in _TAKES:
        return None, None
    taken, stages, step = _TAKES[kind], range(placement.num_stages), 1 if kind is Kind.F else -1
    source = incoming(action, placement) or Action(taken, stage, m)
    target = outgoing(action, placement) or Action(taken, stage + step, m)
    return source if stage - step in stages else None, target if stage + step in stages else None

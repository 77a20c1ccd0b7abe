"""Precedence: the one place that says which action must end before another may start.

    F(s, m)   after  F(s-1, m)
    B(s, m)   after  F(s, m) and the backward of (s+1, m)        the same for BW
    W(s, m)   after  B(s, m)

A message carries what crosses ranks: SEND_F of stage s is received as RECV_F of stage s+1,
SEND_B of stage s as RECV_B of stage s-1.
"""

from collections.abc import Iterable
from typing import NamedTuple

from zeropp.ir.action import BACKWARD, RECEIVES, SENDS, Action, Kind
from zeropp.ir.placement import Placement
from zeropp.ir.schedule import Schedule


def predecessors(action: Action, schedule: Schedule) -> tuple[Action, ...]:
    """The compute actions that must end before the compute action `action` starts."""
    kind, stage, m = action
    if kind is Kind.F:
        return (Action(Kind.F, stage - 1, m),) if stage > 0 else ()
    if kind is Kind.W:
        return (Action(Kind.B, stage, m),)
    forward = Action(Kind.F, stage, m)
    if stage == schedule.placement.num_stages - 1:
        return (forward,)
    return (forward, schedule.backward_of(stage + 1, m))


class Channel(NamedTuple):
    """An ordered link between two ranks; forward and backward traffic have one each."""

    source: int
    destination: int
    kind: Kind  # F or B

    def __str__(self) -> str:
        return f"{self.source}->{self.destination} {self.kind}"


def outgoing(action: Action, placement: Placement) -> Action | None:
    """The SEND that must follow a compute action, or None if nothing leaves the rank."""
    kind, stage, m = action
    if kind is Kind.F:
        return Action(Kind.SEND_F, stage, m) if placement.hops[stage] else None
    if kind in BACKWARD and stage > 0 and placement.hops[stage - 1]:
        return Action(Kind.SEND_B, stage, m)
    return None


def incoming(action: Action, placement: Placement) -> Action | None:
    """The RECV that an action consumes, or None if it has no input from another rank."""
    kind, stage, m = action
    if kind is Kind.F:
        return Action(Kind.RECV_F, stage, m) if stage > 0 and placement.hops[stage - 1] else None
    if kind in BACKWARD and placement.hops[stage]:
        return Action(Kind.RECV_B, stage, m)
    return None


_CROSSING = {  # of a message, the action at its other end, and where that is
    Kind.SEND_F: (Kind.RECV_F, 1),
    Kind.RECV_F: (Kind.SEND_F, -1),
    Kind.SEND_B: (Kind.RECV_B, -1),
    Kind.RECV_B: (Kind.SEND_B, 1),
}


def other_end(message: Action) -> Action:
    """The RECV of what a SEND sends, or the SEND of what a RECV receives, on the other rank."""
    kind, step = _CROSSING[message.kind]
    return Action(kind, message.stage + step, message.microbatch)


def sends_first(order: Iterable[Action]) -> list[int]:
    """The positions of a rank's actions as they are run: programs post a RECV before a SEND of the
    same moment, so that even senders that block until their message is received cannot deadlock;
    ours go on.
    """
    run: list[int] = []
    posted: list[int] = []
    for position, (kind, _, _) in enumerate(order):
        if kind in RECEIVES:
            posted.append(position)
            continue
        if posted and kind not in SENDS:
            run += posted
            posted.clear()
        run.append(position)
    return run + posted


def channel_of(action: Action, placement: Placement) -> Channel:
    """The channel that a SEND or RECV uses."""
    send = other_end(action) if action.kind in RECEIVES else action
    source, destination = send.stage, other_end(send).stage
    kind = Kind.F if send.kind is Kind.SEND_F else Kind.B
    return Channel(placement.rank_of(source), placement.rank_of(destination), kind)


def channels_of(placement: Placement) -> list[Channel]:
    """All between neighbouring stages, sorted."""
    passes = (Action(kind, s) for s in range(placement.num_stages) for kind in (Kind.F, Kind.B))
    sends = (outgoing(action, placement) for action in passes)
    return sorted({channel_of(send, placement) for send in sends if send})

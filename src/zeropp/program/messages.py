"""Insert SEND and RECV so that transfers hide behind compute and no order of them can deadlock.

A SEND follows the action that made its tensors. A RECV is posted at the point that the receiver
has reached, on unit times, when the SEND is issued, or `recv_ahead` compute actions before the
action that consumes it, whichever is earlier. So the whole program can be run along that one
timeline with every RECV posted before its SEND: it cannot deadlock, even if every SEND blocks
until its RECV is posted.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

from zeropp.ir.action import COMPUTE, Action
from zeropp.ir.earliest import evaluate
from zeropp.ir.precedence import Channel, channel_of, incoming, matching_receive, outgoing
from zeropp.ir.program import Program
from zeropp.ir.schedule import Schedule


def p2p(program: Program, recv_ahead: int = 1) -> Program:
    """The program with its point-to-point actions.

    Args:
        program: compute and, possibly, collectives.
        recv_ahead: at the latest how many compute actions before its use a RECV is posted.

    Raises:
        ValueError: recv_ahead below 0.
        DeadlockError: the schedule's orders contradict each other.
    """
    if recv_ahead < 0:
        raise ValueError(f"recv_ahead must be 0 or more, got {recv_ahead}")
    receives = _receives(program.schedule, recv_ahead)
    actions = tuple(
        tuple(_insert(order, receives[rank], program)) for rank, order in enumerate(program.actions)
    )
    return replace(program, actions=actions)


def _receives(schedule: Schedule, recv_ahead: int) -> list[dict[int, list[Action]]]:
    """For each rank: before which of its compute actions which RECVs are posted, in send order."""
    placement = schedule.placement
    spans = evaluate(schedule, lambda action: 1.0).spans
    ends = [[span.end for span in rank] for rank in spans]
    used = {incoming(a, placement): i for order in schedule.actions for i, a in enumerate(order)}
    posts: dict[Channel, list[tuple[int, Action]]] = defaultdict(list)
    for action, _, end in reversed(list(chain.from_iterable(spans))):
        if (send := outgoing(action, placement)) is not None:
            receive, channel = matching_receive(send), channel_of(send, placement)
            reached = bisect_right(ends[channel.destination], end)
            position = max(0, min(reached, used[receive] - recv_ahead))
            if later := posts[channel]:
                position = min(position, later[-1][0])  # no RECV after one that is sent later
            later.append((position, receive))
    receives: list[dict[int, list[Action]]] = [defaultdict(list) for _ in spans]
    for channel, last_first in sorted(posts.items()):
        for position, receive in reversed(last_first):
            receives[channel.destination][position].append(receive)
    return receives


def _insert(
    order: tuple[Action, ...], receives: dict[int, list[Action]], program: Program
) -> Iterator[Action]:
    index = 0
    yield from receives[index]
    for action in order:
        yield action
        if action.kind in COMPUTE:
            index += 1
            yield from receives[index]  # first, or two ranks could block in SENDs to each other
            if (send := outgoing(action, program.placement)) is not None:
                yield send

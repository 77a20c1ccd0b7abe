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

from zeropp.ir.action import COMPUTE, Action, Kind
from zeropp.ir.evaluate import evaluate
from zeropp.ir.precedence import outgoing, successor
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
    return Program(program.schedule, actions, program.shard, program.max_resident)


def _receives(schedule: Schedule, recv_ahead: int) -> list[dict[int, list[Action]]]:
    """For each rank: before which of its compute actions which RECVs are posted, in send order."""
    spans = evaluate(schedule, lambda action: 1.0).spans
    ends = [[span.end for span in rank] for rank in spans]
    index_of = {action: i for order in schedule.actions for i, action in enumerate(order)}
    ranks = schedule.placement.ranks
    posts: dict[tuple[int, int, Kind], list[tuple[int, Action]]] = defaultdict(list)
    for source, rank in enumerate(spans):
        for action, _, end in rank:
            consumer = successor(action, schedule)
            if consumer is None or ranks[consumer.stage] == source:
                continue
            destination = ranks[consumer.stage]
            reached = bisect_right(ends[destination], end)
            position = max(0, min(reached, index_of[consumer] - recv_ahead))
            kind = Kind.RECV_F if action.kind is Kind.F else Kind.RECV_B
            receive = Action(kind, consumer.stage, action.microbatch)
            posts[source, destination, kind].append((position, receive))
    return _in_send_order(posts, len(schedule.actions))


def _in_send_order(
    positions: dict[tuple[int, int, Kind], list[tuple[int, Action]]], ranks: int
) -> list[dict[int, list[Action]]]:
    """Post no RECV of a channel after one that is sent later."""
    receives: list[dict[int, list[Action]]] = [defaultdict(list) for _ in range(ranks)]
    for (_, destination, _), posts in sorted(positions.items()):
        earliest = posts[-1][0]
        ordered = []
        for position, receive in reversed(posts):
            earliest = min(earliest, position)
            ordered.append((earliest, receive))
        for position, receive in reversed(ordered):
            receives[destination][position].append(receive)
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

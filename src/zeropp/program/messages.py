"""From a program's compute and collectives to what its ranks send each other.

SEND and RECV are inserted so that transfers hide behind compute and no order of them can deadlock.
A SEND follows the action that made its tensors. A RECV is posted at the point that the receiver
has reached, on a timeline of expected durations, when the SEND is issued. So the whole program can
be run along that one timeline with every RECV posted when its message comes: it cannot deadlock if
every SEND blocks until its RECV is posted, nor if every RECV holds its rank until its message is
there, as on a GPU that has to be idle for a moment (a kernel is loaded, memory is freed) while NCCL
receives. Messages take a moment on that timeline, or of two ranks that end an action together the
one down the line, which in truth is later, would have to be the earlier one.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

from zeropp.ir.action import COMPUTE, Action, Kind
from zeropp.ir.links import Links
from zeropp.ir.placement import Placement
from zeropp.ir.precedence import outgoing
from zeropp.ir.program import Program
from zeropp.ir.timeline import MOMENT, Timeline, evaluate

_Posts = defaultdict[int, list[Action]]  # before which compute actions of a rank, which RECVs


def with_messages(program: Program, expected: Timeline | None = None) -> Program:
    """The program, which has none yet; `expected` of its schedule, as for `lower`."""
    schedule = program.schedule
    if expected is None:
        times = dict.fromkeys(COMPUTE, 1.0) | {Kind.BW: 2.0}
        expected = evaluate(schedule, lambda action: times[action.kind], MOMENT)
    pairs = zip(program.actions, _receives(expected, Links(schedule)), strict=True)
    actions = tuple(tuple(_insert(*pair, schedule.placement)) for pair in pairs)
    return replace(program, actions=actions)


def _receives(expected: Timeline, links: Links) -> list[_Posts]:
    """For each rank, its RECVs, in send order."""
    ends = [[span.end for span in rank] for rank in expected.spans]
    receivers = [channel.destination for channel in links.channels]
    messages = {made: n for n, made in enumerate(links.source) if links.channel[n] >= 0}
    posts: list[list[tuple[int, int]]] = [[] for _ in receivers]
    numbers = links.numbers(span.action for span in chain.from_iterable(expected.spans))
    for number, end in zip(reversed(numbers), reversed([*chain(*ends)]), strict=True):
        if (message := messages.get(number)) is not None:
            channel = links.channel[message]
            position = bisect_right(ends[receivers[channel]], end)
            if later := posts[channel]:
                position = min(position, later[-1][0])  # no RECV after one that is sent later
            later.append((position, message))
    receives = [_Posts(list) for _ in ends]
    for receiver, last_first in zip(receivers, posts, strict=True):
        for position, message in reversed(last_first):
            receives[receiver][position].append(links.action(links.receives + message))
    return receives


def _insert(order: tuple[Action, ...], receives: _Posts, placement: Placement) -> Iterator[Action]:
    index = 0
    yield from receives[index]
    for action in order:
        yield action
        if action.kind in COMPUTE:
            index += 1
            if index in receives:  # first, or two ranks could block in SENDs to each other
                yield from receives[index]
            if (send := outgoing(action, placement)) is not None:
                yield send

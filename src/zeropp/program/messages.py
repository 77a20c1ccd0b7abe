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
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain

from zeropp.ir.action import COMPUTE, Action, Kind, new_action
from zeropp.ir.links import Links, Numbers
from zeropp.ir.program import Program
from zeropp.ir.walk import MOMENT, times_of

_Posts = defaultdict[int, list[Action]]  # before which compute actions of a rank, which RECVs
_F, _RECV_F, _RECV_B, _SEND_F, _SEND_B = Kind.F, Kind.RECV_F, Kind.RECV_B, Kind.SEND_F, Kind.SEND_B


def with_messages(program: Program, ends: Sequence[float] | None = None) -> Program:
    """The program, which has none yet; `ends`: when each of its F, B and W is expected to end, by
    its number; None: all take as long.
    """
    links = program.links
    orders = list(map(links.numbers, program.schedule.actions))
    receives = _receives(links, orders, ends or _equal_times(links, orders))
    ranks = zip(program.actions, orders, receives, strict=True)
    return replace(program, actions=tuple(tuple(_insert(links.taker, *rank)) for rank in ranks))


def _equal_times(links: Links, orders: Numbers) -> list[float]:
    """When each F, B and W ends where all take as long."""
    durations = [1.0] * links.sends
    for number in links.numbers(Action(Kind.BW, *where) for where in links.schedule.fused):
        durations[number] = 2.0
    return times_of(links.schedule, links, orders, durations, MOMENT)[1]


def _receives(links: Links, orders: Numbers, ends: Sequence[float]) -> list[_Posts]:
    """For each rank, its RECVs, in send order."""
    ended = [[ends[number] for number in order] for order in orders]
    posts: list[list[tuple[int, int]]] = [[] for _ in links.channels]
    taker, place = links.taker, links.channel
    receivers = [ended[channel.destination] for channel in links.channels]
    for number in chain.from_iterable(map(reversed, reversed(orders))):
        if (message := taker[number]) >= 0:
            later = posts[place[message]]
            position = bisect_right(receivers[place[message]], ends[number])
            if later and later[-1][0] < position:
                position = later[-1][0]  # no RECV after one that is sent later
            later.append((position, message))
    receives = [_Posts(list) for _ in orders]
    B, stages = links.schedule.num_microbatches, links.schedule.placement.num_stages
    for channel, last_first in zip(links.channels, posts, strict=True):
        own, kind = receives[channel.destination], _RECV_F if channel.kind is _F else _RECV_B
        for position, message in reversed(last_first):
            own[position].append(new_action((kind, message // B % stages, message % B)))
    return receives


def _insert(
    taker: Sequence[int], order: Sequence[Action], numbers: Iterable[int], receives: _Posts
) -> list[Action]:
    """A rank's order with its messages; `numbers` are of its compute actions."""
    made, following = [*receives[0]], enumerate(numbers, 1)
    for action in order:
        made.append(action)
        kind, stage, microbatch = action
        if kind in COMPUTE:
            index, number = next(following)
            if index in receives:  # first, or two ranks could block in SENDs to each other
                made += receives[index]
            if taker[number] >= 0:
                made.append(new_action((_SEND_F if kind is _F else _SEND_B, stage, microbatch)))
    return made

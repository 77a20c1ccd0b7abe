"""From a schedule to the program that ranks execute: collectives, then messages.

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

from zeropp.ir.action import COMPUTE, SHARDING, Action, Kind, collector_paused
from zeropp.ir.links import Links
from zeropp.ir.placement import Placement
from zeropp.ir.precedence import outgoing
from zeropp.ir.program import Program
from zeropp.ir.schedule import Schedule
from zeropp.ir.timeline import MOMENT, Timeline, evaluate
from zeropp.program.collectives import shard
from zeropp.program.verifier import require_valid

_Posts = defaultdict[int, list[Action]]  # before which compute actions of a rank, which RECVs


@collector_paused()
def lower(
    schedule: Schedule,
    shard_policy: str | None = None,
    *,
    max_resident: int = 2,
    prefetch: int | None = None,
    expected: Timeline | None = None,
) -> Program:
    """The schedule with its collectives and its messages.

    Args:
        schedule: compute actions.
        shard_policy: `unit`, `step` or `microbatch`; None: no collectives.
        max_resident: for `unit`, most stages of a rank whose parameters are gathered at once,
            those on their way included.
        prefetch: for `unit` and `step`, most compute actions before its first use that a gather is
            issued; None: as soon as `max_resident` leaves room.
        expected: of the schedule, as `Costs.expected` makes it; None: F, B and W are equal.

    Raises:
        ValueError: an unknown policy, or a knob out of range.
        DeadlockError: the schedule's orders contradict each other.
    """
    if shard_policy is None:
        program = Program(schedule, schedule.actions)
    else:
        program = shard(schedule, shard_policy, max_resident, prefetch)
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


def without_collectives(program: Program) -> Program:
    """The program for ranks on which nothing is sharded: its collectives would do nothing."""
    if program.shard is None:
        return program
    actions = tuple(tuple(a for a in order if a.kind not in SHARDING) for order in program.actions)
    return replace(program, actions=actions, shard=None, max_resident=None)


def forward_only(placement: Placement, num_microbatches: int) -> Schedule:
    """Each chunk's micro-batches before the next's, so that each stage is gathered once."""
    batch = range(num_microbatches)
    actions = tuple(
        tuple(Action(Kind.F, stage, m) for stage in placement.stages_of(rank) for m in batch)
        for rank in range(placement.pp_size)
    )
    return Schedule("forward-only", placement, (num_microbatches,), actions)


def forward_only_program(like: Program, num_microbatches: int) -> Program:
    """The verified program of `forward_only`, placed and sharded as `like` is."""
    placement = like.placement
    schedule = forward_only(placement, num_microbatches)
    resident = like.max_resident or placement.num_chunks
    return require_valid(lower(schedule, like.shard, max_resident=resident))

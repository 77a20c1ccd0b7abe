"""Links: a schedule's actions as whole numbers, and for each of them what it waits for.

Whatever walks a whole program goes by these, since lists are several times faster than dictionaries
of actions. With B micro-batches and N = stages x B, the number of an action is stage x B + m, plus

    F 0       SEND_F 3N   RECV_F 5N   UNSHARD 7N
    B, BW N   SEND_B 4N   RECV_B 6N   RESHARD 8N
    W 2N                              REDUCE  9N

where a SEND, like its RECV, goes by the stage that takes the message: the numbers of both are 3N
and 5N above that of the F or B that waits for it.
"""

from collections.abc import Iterable, Sequence

from zeropp.ir.action import Action, Kind
from zeropp.ir.precedence import (
    channel_of,
    channels_of,
    incoming,
    other_end,
    outgoing,
    predecessors,
)
from zeropp.ir.schedule import Schedule

Numbers = Sequence[Sequence[int]]  # the ranks' orders, numbered

_B = Kind.B
_COMPUTE = (Kind.F, Kind.B, Kind.W)
_SENDS, _RECEIVES = (Kind.SEND_F, Kind.SEND_B), (Kind.RECV_F, Kind.RECV_B)
_SHARDING = (Kind.UNSHARD, Kind.RESHARD, Kind.REDUCE)


class Links:
    """Of one schedule, and of its programs; -1 stands for none.

    Attributes:
        schedule: whose they are.
        size: N; `sends`, `receives`, `sharding` and `end` are 3 N, 5 N, 7 N and 10 N.
        own: for each F, B and W, the action of the same stage that it follows.
        source: for each F, B and W, the action of another stage whose output it takes.
        taker: for each F, B and W, the F or B to which a message takes its output.
        waits: in a program, for each number that of another rank: F, B for a SEND, SEND for a RECV.
        channels: all of them, sorted.
        channel: for each F, B and W, the place in `channels` of that by which its input comes.
    """

    def __init__(self, schedule: Schedule) -> None:
        placement, self.schedule = schedule.placement, schedule
        self._batch = schedule.num_microbatches
        self.size = size = placement.num_stages * self._batch
        self.sends, self.receives, self.sharding, self.end = (n * size for n in (3, 5, 7, 10))
        kinds = (*_COMPUTE, *_SENDS, *_RECEIVES, *_SHARDING)
        self._first = {kind: block * size for block, kind in enumerate(kinds)}
        self._first[Kind.BW] = self._first[Kind.B]
        taken = self.numbers(other_end(Action(send, 0, 0)) for send in _SENDS)
        self._first |= {send: n - 2 * size for send, n in zip(_SENDS, taken, strict=True)}
        stages = range(placement.num_stages)
        rows = [Action(kind, stage, 0) for kind in _COMPUTE for stage in stages]
        received = [Action(kind, stage, 0) for kind in _RECEIVES for stage in stages]
        self._rows = [*rows, *map(other_end, received), *received]
        needs = [{n.stage == row.stage: n for n in predecessors(row, schedule)} for row in rows]
        self.own = self._each(need.get(True) for need in needs)
        self.source = self._each(need.get(False) for need in needs)
        inputs = [incoming(row, placement) for row in rows]
        self.channels = channels_of(placement)
        places = [self.channels.index(channel_of(r, placement)) if r else -1 for r in inputs]
        self.channel = [at for place in places for at in [place] * self._batch]
        sent = [outgoing(row, placement) for row in rows]
        self.taker = self._each((send and other_end(send) for send in sent), self.receives)
        self.waits = self._each(receive and other_end(receive) for receive in inputs)
        self.waits += [*range(self.receives, self.sharding), *[-1] * (self.end - self.receives)]

    def _each(self, of_rows: Iterable[Action | None], below: int = 0) -> list[int]:
        """The numbers, less `below`, for every micro-batch, from the actions for micro-batch 0."""
        found: list[int] = []
        for action in of_rows:
            first = -1 if action is None else self.numbers([action])[0] - below
            found += [-1] * self._batch if first < 0 else range(first, first + self._batch)
        return found

    def numbers(self, order: Iterable[Action]) -> list[int]:
        """Of actions that exist, such as a rank's."""
        first, batch = self._first, self._batch
        return [first[kind] + stage * batch + (m or 0) for kind, stage, m in order]

    def action(self, number: int) -> Action:
        """What a number stands for that is no collective's."""
        row, m = divmod(number, self._batch)
        kind, stage, _ = self._rows[row]
        return self.schedule.backward_of(stage, m) if kind is _B else Action(kind, stage, m)

"""What an action of a simulated run waited for, and the chain of waits that made the step so long.

A wait says what had to be done, and from when on it was; an action starts with the last of its
waits, so the chain of last waits from the end of the step goes back to its start without a gap.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter
from typing import NamedTuple

from zeropp.ir.action import COMPUTE, NEEDS_PARAMETERS, RECEIVES, SENDS, Action, Kind
from zeropp.ir.precedence import Channel, channel_of, incoming, other_end, predecessors
from zeropp.ir.timeline import Span
from zeropp.simulate import Report


class How(StrEnum):
    """Why an action had to wait for another."""

    ORDER = "order"  # it comes before, on the same rank
    INPUT = "input"  # it makes the input, on the same rank
    MESSAGE = "message"  # it brings the input from another rank
    PARAMETERS = "parameters"  # it gathers the stage's parameters
    STREAM = "stream"  # it is the collective before
    CHANNEL = "channel"  # it keeps the channel busy
    POSTED = "posted"  # after it the other rank posts the receive


class Place(NamedTuple):
    """Where an action stands: the rank, and the position in its order of the program."""

    rank: int
    position: int


class Wait(NamedTuple):
    """An action waited for what stands at `place`, which was done at `ready`."""

    place: Place
    how: How
    ready: float


Waits = Mapping[Place, tuple[Wait, ...]]


@dataclass(frozen=True)
class Chains:
    """Of every action that took place in a run: when, and what it waited for.

    Attributes:
        spans: of compute, gathers, reductions and messages.
        waits: of each of them; none for what could start at once.
    """

    spans: Mapping[Place, Span]
    waits: Waits

    def decisive(self, place: Place) -> Wait | None:
        """The last of its waits, with which it starts; None if it starts at once."""
        return max(self.waits[place], key=attrgetter("ready"), default=None)

    def critical(self) -> tuple[Place, ...]:
        """The chain of decisive waits that ends with the step, from its start on."""
        own = (p for p, span in self.spans.items() if span.action.kind not in SENDS)
        place: Place | None = max(own, key=lambda p: (self.spans[p].end, p), default=None)
        chain: list[Place] = []
        while place is not None:
            chain.append(place)
            wait = self.decisive(place)
            place = None if wait is None else wait.place
        return tuple(reversed(chain))


def chains_of(report: Report) -> Chains:
    """Of a simulated program."""
    walks = [_Walk(report, rank) for rank in range(report.program.placement.pp_size)]
    spans = {place: span for walk in walks for place, span in walk.spans.items()}
    sent = {s.action: p for p, s in spans.items() if s.action.kind in SENDS}
    posted = {receive: wait for walk in walks for receive, wait in walk.posted.items()}
    waits: dict[Place, tuple[Wait, ...]] = {}
    for walk in walks:
        for place, local in walk.waits.items():
            far = _far(report, spans, sent, posted, place)
            waits[place] = (*local, *far)
    return Chains(spans, waits)


def _far(
    report: Report,
    spans: Mapping[Place, Span],
    sent: Mapping[Action, Place],
    posted: Mapping[Action, Wait | None],
    place: Place,
) -> Iterator[Wait]:
    """What an action waits for on another rank."""
    action = spans[place].action
    if action.kind in SENDS:
        if (wait := posted[other_end(action)]) is not None:
            yield wait
    elif action.kind in COMPUTE and (receive := incoming(action, report.program.placement)):
        send = sent[other_end(receive)]
        yield Wait(send, How.MESSAGE, spans[send].end)


class _Walk:
    """Through one rank's order: spans, and waits for what is on the rank itself.

    The clocks are those of the simulator: `host` passes where messages are sent or posted.
    """

    def __init__(self, report: Report, rank: int) -> None:
        self.report, self.rank = report, rank
        self.spans: dict[Place, Span] = {}
        self.waits: dict[Place, tuple[Wait, ...]] = {}
        self.posted: dict[Action, Wait | None] = {}
        self.at: dict[Action, Place] = {}  # compute, and the latest gather of each stage
        self.busy: dict[Channel, Wait] = {}
        self.free: Wait | None = None  # the compute stream is, since
        self.posting = 0.0
        self.stream: Wait | None = None  # that of collectives is free, since
        rest = iter(report.run.spans[rank])
        for position, action in enumerate(report.program.actions[rank]):
            if action.kind in RECEIVES:
                self.posted[action] = self.free and self.free._replace(how=How.POSTED)
                self.posting += report.costs.host
            elif action.kind is not Kind.RESHARD:
                self._enter(Place(rank, position), next(rest))

    def _enter(self, place: Place, span: Span) -> None:
        self.spans[place] = span
        kind = span.action.kind
        found = self._compute if kind in COMPUTE else self._send if kind in SENDS else self._collect
        self.waits[place] = tuple(wait for wait in found(place, span) if wait is not None)
        self.at[span.action] = place

    def _compute(self, place: Place, span: Span) -> Iterator[Wait | None]:
        yield self._later(self.free, self.posting)
        yield from self._inputs(span.action)
        gather = self.at.get(Action(Kind.UNSHARD, span.action.stage))
        if gather is not None and span.action.kind in NEEDS_PARAMETERS:
            yield Wait(gather, How.PARAMETERS, self.spans[gather].end)
        self.free, self.posting = Wait(place, How.ORDER, span.end), 0.0

    def _inputs(self, action: Action) -> Iterator[Wait]:
        for needed in predecessors(action, self.report.program.schedule):
            if (made := self.at.get(needed)) is not None:
                yield Wait(made, How.INPUT, self.spans[made].end)

    def _send(self, place: Place, span: Span) -> Iterator[Wait | None]:
        self.free = self._later(self.free, self.report.costs.host)
        yield self.free
        channel = channel_of(span.action, self.report.program.placement)
        yield self.busy.get(channel)
        self.busy[channel] = Wait(place, How.CHANNEL, span.end - self.report.costs.latency)

    def _collect(self, place: Place, span: Span) -> Iterator[Wait | None]:
        yield self.stream
        yield self.free
        self.stream = Wait(place, How.STREAM, span.end)

    @staticmethod
    def _later(wait: Wait | None, by: float) -> Wait | None:
        return None if wait is None else wait._replace(ready=wait.ready + by)

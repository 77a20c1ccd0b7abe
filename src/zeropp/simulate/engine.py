"""Run a program in simulated time: on every rank a compute stream, a collective stream, channels.

compute      F0 F1 F2 ..          actions in order, each after its inputs and its gather; a
                                  message keeps the stream busy for `host`
collectives  UNSHARD .. REDUCE    in order, each after the compute action that precedes it in
                                  the program, beside what follows
channel      ->  ->  ->           in order; a transfer starts when it is sent and its receive is
                                  posted, and arrives `transfer + latency` later
"""

from collections.abc import Sequence
from dataclasses import dataclass

from zeropp.costs import Costs
from zeropp.ir.action import Action, Kind
from zeropp.ir.cause import Cause
from zeropp.ir.links import Numbers
from zeropp.ir.program import Program
from zeropp.ir.timeline import Span, new_span
from zeropp.ir.walk import Stretch, run_all

_RAMP, _PEER, _GATHER, _HOST = Cause.RAMP, Cause.PEER, Cause.GATHER, Cause.HOST


@dataclass(frozen=True)
class Run:
    """What happened in simulated time.

    Attributes:
        spans: for each rank, compute actions, UNSHARDs, REDUCEs and SENDs with their times, each
            kind of stream in its order.
        points: for each rank, its RESHARDs, as (stage, time).
        idle: for each rank, idle time by cause; with the compute times it sums to the makespan.
        makespan: until the last rank has done its optimizer step.
    """

    spans: tuple[tuple[Span, ...], ...]
    points: tuple[tuple[tuple[int, float], ...], ...]
    idle: tuple[dict[Cause, float], ...]
    makespan: float


def run_program(program: Program, costs: Costs) -> Run:
    """Simulate one step, in which transfers wait for their receive to be posted."""
    engine = _Engine(program, costs)
    engine.run(program.numbers, run_all(program.actions, program.links, program.walked))
    return engine.finish()


def boundary_of(send: Action) -> int:
    """The stage whose output, or the gradient of whose output, `send` sends."""
    return send.stage if send.kind is Kind.SEND_F else send.stage - 1


class _Clocks:
    """Of one rank."""

    def __init__(self) -> None:
        self.compute = 0.0  # its compute stream is busy until
        self.posting = 0.0  # receives, before the next compute action
        self.collective = 0.0  # its collective stream is busy until
        self.freed = -1  # the stage that was, since the latest compute action
        self.waits = _RAMP  # what it waits for where an input is not there
        self.idle = dict.fromkeys(Cause, 0.0)
        self.spans: list[Span] = []
        self.points: list[tuple[int, float]] = []


class _Engine:
    """Clocks of all streams."""

    def __init__(self, program: Program, costs: Costs) -> None:
        self.program, self.costs = program, costs
        self.links = links = program.links
        self.sends, self.receives, self.sharding = links.sends, links.receives, links.sharding
        self.channel, self.weights = links.channel, 2 * links.size  # W's have numbers from there on
        self.clocks = [_Clocks() for _ in program.actions]
        self.batch = program.schedule.num_microbatches
        self.duration, self.transfer = self._durations(), self._transfers()
        self.busy = [0.0 for _ in links.channels]  # until
        self.posted, self.arrived = ([0.0] * links.sends for _ in range(2))  # messages
        self.gathered = [(0.0, _GATHER)] * program.placement.num_stages  # and why not before

    def _durations(self) -> list[float]:
        """Of every F, B and W."""
        stages = range(self.program.placement.num_stages)
        rows = (Action(kind, stage) for kind in (Kind.F, Kind.B, Kind.W) for stage in stages)
        found = [d for row in rows for d in [self.costs.duration(row)] * self.batch]
        for where in self.program.schedule.fused:
            fused = Action(Kind.BW, *where)
            found[self.links.numbers([fused])[0]] = self.costs.duration(fused)
        return found

    def _transfers(self) -> list[float]:
        """Of every message."""
        rows = map(self.links.action, range(self.sends, self.receives, self.batch))
        return [t for row in rows for t in [self.costs.transfer[boundary_of(row)]] * self.batch]

    def run(self, orders: Numbers, stretches: Sequence[Stretch]) -> None:
        """Run all, as stretches of the ranks' orders; one loop, most of a simulation's time."""
        sends, receives, sharding, weights = self.sends, self.receives, self.sharding, self.weights
        posted, arrived, channel, busy = self.posted, self.arrived, self.channel, self.busy
        host, latency, actions = self.costs.host, self.costs.latency, self.program.actions
        for rank, first, last in stretches:
            clocks = self.clocks[rank]
            idle, spans, now, posting = clocks.idle, clocks.spans, clocks.compute, clocks.posting
            pairs = zip(orders[rank][first:last], actions[rank][first:last], strict=True)
            for number, action in pairs:
                if number < sends:
                    free = start = now + posting
                    if arrived[number] > free:
                        start = arrived[number]
                        idle[clocks.waits] += start - free
                    if number < weights:  # F and B need parameters
                        gathered, cause = self.gathered[action.stage]
                        if gathered > start:
                            idle[cause] += gathered - start
                            start = gathered
                    if posting:
                        idle[_HOST] += posting
                        posting = 0.0
                    clocks.waits, clocks.freed = _PEER, -1
                    now = start + self.duration[number]
                    spans.append(new_span((action, start, now)))
                elif number < receives:
                    message = number - sends
                    if host:
                        now += host
                        idle[_HOST] += host
                    start = max(now, posted[message], busy[channel[message]])
                    busy[channel[message]] = sent = start + self.transfer[message]
                    arrived[message] = sent + latency
                    spans.append(new_span((action, start, sent + latency)))
                elif number < sharding:
                    posted[number - receives] = now
                    posting += host  # after the SENDs of its moment
                else:
                    self._collect(clocks, action, now)
            clocks.compute, clocks.posting = now, posting

    def _collect(self, clocks: _Clocks, action: Action, now: float) -> None:
        stage = action.stage
        if action.kind is Kind.RESHARD:
            clocks.points.append((stage, now))
            clocks.freed = stage
            return
        gathers = action.kind is Kind.UNSHARD
        start = max(clocks.collective, now)
        end = start + (self.costs.gather if gathers else self.costs.reduce)[stage]
        clocks.collective = end
        clocks.spans.append(Span(action, start, end))
        if gathers:
            for_room = clocks.freed not in (-1, stage)
            self.gathered[stage] = end, Cause.MEMORY if for_room else _GATHER

    def finish(self) -> Run:
        ends = [max(clocks.compute, clocks.collective) for clocks in self.clocks]
        last = max(ends)
        for clocks, end in zip(self.clocks, ends, strict=True):
            clocks.idle[Cause.REDUCE] += end - clocks.compute
            clocks.idle[Cause.TAIL] += last - end
            clocks.idle[Cause.OPTIMIZER] += self.costs.optimizer
        return Run(
            spans=tuple(tuple(clocks.spans) for clocks in self.clocks),
            points=tuple(tuple(clocks.points) for clocks in self.clocks),
            idle=tuple(clocks.idle for clocks in self.clocks),
            makespan=last + self.costs.optimizer,
        )

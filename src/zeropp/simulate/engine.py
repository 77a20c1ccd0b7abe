"""Run a program in simulated time: on every rank a compute stream, a collective stream, channels.

compute      F0 F1 F2 ..          actions in order, each after its inputs and its gather; a
                                  message keeps the stream busy for `host`
collectives  UNSHARD .. REDUCE    in order, each after the compute action that precedes it in
                                  the program, beside what follows
channel      ->  ->  ->           in order; a transfer starts when it is sent and its receive is
                                  posted, and arrives `transfer + latency` later
"""

from collections import defaultdict
from dataclasses import dataclass

from zeropp.costs import Costs
from zeropp.ir.action import COMPUTE, NEEDS_PARAMETERS, RECEIVES, SENDS, Action, Kind
from zeropp.ir.cause import Cause
from zeropp.ir.precedence import (
    Channel,
    boundary_of,
    channel_of,
    incoming,
    matching_receive,
    matching_send,
)
from zeropp.ir.program import Program
from zeropp.ir.timeline import DeadlockError, Span, run_in_order


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
    if blocked := run_in_order(program.actions, engine.attempt):
        raise DeadlockError("deadlock: " + "; ".join(map(str, blocked)))
    return engine.finish()


class _Engine:
    """Clocks of all streams; `attempt` runs the next action of a rank."""

    def __init__(self, program: Program, costs: Costs) -> None:
        ranks = range(program.placement.pp_size)
        self.program, self.costs = program, costs
        self.compute = [0.0 for _ in ranks]  # the compute stream is busy until
        self.posting = [0.0 for _ in ranks]  # receives, before the next compute action
        self.collective = [0.0 for _ in ranks]
        self.channel: dict[Channel, float] = defaultdict(float)
        self.posted: dict[Action, float] = {}  # receives
        self.arrived: dict[Action, float] = {}  # by the RECV
        self.gathered: dict[int, tuple[float, Cause]] = {}  # by the stage; and why not before
        self.freed: list[int | None] = [None for _ in ranks]  # since the latest compute action
        self.spans: list[list[Span]] = [[] for _ in ranks]
        self.points: list[list[tuple[int, float]]] = [[] for _ in ranks]
        self.idle: list[dict[Cause, float]] = [dict.fromkeys(Cause, 0.0) for _ in ranks]
        self.started = [False for _ in ranks]

    def attempt(self, rank: int, action: Action) -> Action | None:
        kind = action.kind
        if kind in COMPUTE:
            return self._compute(rank, action)
        if kind in SENDS:
            return self._send(rank, action)
        if kind in RECEIVES:
            self.posted[action] = self.compute[rank]
            self.posting[rank] += self.costs.host  # after the SENDs of its moment
        elif kind is Kind.RESHARD:
            self.points[rank].append((action.stage, self.compute[rank]))
            self.freed[rank] = action.stage
        else:
            self._collect(rank, action)
        return None

    def _compute(self, rank: int, action: Action) -> Action | None:
        free = self.compute[rank] + self.posting[rank]
        receive = incoming(action, self.program.placement)
        if receive is not None and receive not in self.arrived:
            return matching_send(receive)
        ready = free if receive is None else max(free, self.arrived[receive])
        start, cause = ready, Cause.GATHER
        if action.kind in NEEDS_PARAMETERS and action.stage in self.gathered:
            gathered, cause = self.gathered[action.stage]
            start = max(ready, gathered)
        end = start + self.costs.duration(action)
        waits = self.idle[rank]
        waits[Cause.HOST] += self.posting[rank]
        self.posting[rank] = 0.0
        waits[Cause.PEER if self.started[rank] else Cause.RAMP] += ready - free
        waits[cause] += start - ready
        self.started[rank], self.freed[rank] = True, None
        self.compute[rank] = end
        self.spans[rank].append(Span(action, start, end))
        return None

    def _send(self, rank: int, action: Action) -> Action | None:
        receive = matching_receive(action)
        if receive not in self.posted:
            return receive
        channel = channel_of(action, self.program.placement)
        self.compute[rank] += self.costs.host
        self.idle[rank][Cause.HOST] += self.costs.host
        start = max(self.compute[rank], self.posted[receive], self.channel[channel])
        self.channel[channel] = start + self.costs.transfer[boundary_of(action)]
        arrival = self.channel[channel] + self.costs.latency
        self.arrived[receive] = arrival
        self.spans[rank].append(Span(action, start, arrival))
        return None

    def _collect(self, rank: int, action: Action) -> None:
        start = max(self.collective[rank], self.compute[rank])
        gathers = action.kind is Kind.UNSHARD
        end = start + (self.costs.gather if gathers else self.costs.reduce)[action.stage]
        self.collective[rank] = end
        self.spans[rank].append(Span(action, start, end))
        if gathers:
            for_room = self.freed[rank] not in (None, action.stage)
            self.gathered[action.stage] = end, Cause.MEMORY if for_room else Cause.GATHER

    def finish(self) -> Run:
        ends = [max(c, k) for c, k in zip(self.compute, self.collective, strict=True)]
        last = max(ends)
        for rank, end in enumerate(ends):
            waits = self.idle[rank]
            waits[Cause.REDUCE] += end - self.compute[rank]
            waits[Cause.TAIL] += last - end
            waits[Cause.OPTIMIZER] += self.costs.optimizer
        spans = tuple(map(tuple, self.spans))
        points = tuple(map(tuple, self.points))
        return Run(spans, points, tuple(self.idle), last + self.costs.optimizer)

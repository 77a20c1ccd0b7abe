"""Rehearsing a plan: its real program over real processes, with sleep for compute.

Everything but the model is real: verified program, channels, transfers, FSDP2's collectives,
split backward. A stage is one tiny layer; each F, B and W is made to take its time. Links take as
long as those of a cluster would: their transfers are real, and kept back until then.

message      starts when it is sent and its channel is free, keeps that busy for `transfer`, and
             leaves `latency` later
collective   takes at least its `gather` or `reduce`, in the program's order
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from zeropp.build import program_of
from zeropp.costs import Costs
from zeropp.ir import Action, Placement, Program
from zeropp.ir.precedence import Channel, channel_of
from zeropp.measure.links import measure_hop, timed
from zeropp.plan import Plan
from zeropp.runtime import Pipeline, close_mesh, make_mesh
from zeropp.runtime.block import Tensors
from zeropp.runtime.channel import Channels, Transport
from zeropp.runtime.executor import Phase
from zeropp.runtime.lane import Lane, ThreadLane, Wait
from zeropp.simulate import simulate

WIDTH = 8
_SPUN_S = 1.5e-4  # the system wakes a sleeper late by up to this; the rest is spun


class EmulatedCompute:
    """Makes every compute action last: pass it to `Pipeline.step` as its observer.

    What a stage does for an action, autograd included, counts; the rest of its seconds is slept.
    """

    def __init__(self, costs: Costs) -> None:
        self._costs, self._began = costs, 0.0

    def slow_down(self, stage: int, factor: float) -> None:
        """From now on `stage` takes `factor` times as long."""
        self._costs = self._costs.scaled(stage, factor)

    def observe(self, action: Action, phase: Phase) -> None:
        """A phase ends; the computing one not before its time is over."""
        if phase is Phase.COMPUTE:
            rest_until(self._began + self._costs.duration(action))
        else:
            self._began = time.perf_counter()


def rest_until(end: float) -> None:
    """Leave the processor to others until `end`, by `time.perf_counter`, for nearly all of it."""
    _sleep_until(end - _SPUN_S)
    while time.perf_counter() < end:
        continue


@dataclass(frozen=True)
class _SlowLinks(Transport):
    """A transport of CPUs with the delays of other links, in seconds."""

    latency: float
    transfer: float
    gather: float
    reduce: float

    def messages(
        self, placement: Placement, ranks: Sequence[int], device: torch.device
    ) -> Channels:
        """Real channels, each behind a thread that keeps messages back."""
        return _SlowChannels(placement, ranks, device, self)

    def lane(self, device: torch.device) -> Lane:
        """A real lane whose collectives take their time."""
        return _SlowLane(self)


class _SlowChannels(Channels):
    def __init__(
        self, placement: Placement, ranks: Sequence[int], device: torch.device, links: _SlowLinks
    ) -> None:
        super().__init__(placement, ranks, device)
        self._slow = links
        self._threads: dict[Channel, ThreadPoolExecutor] = defaultdict(
            lambda: ThreadPoolExecutor(1)
        )
        self._free: dict[Channel, float] = defaultdict(float)
        self._leaving: list[Future[None]] = []

    def send(self, action: Action, tensors: Tensors) -> None:
        channel = channel_of(action, self._placement)
        start = max(time.perf_counter(), self._free[channel])
        self._free[channel] = start + self._slow.transfer
        leaves = self._free[channel] + self._slow.latency

        def work() -> None:
            _sleep_until(leaves)
            super(_SlowChannels, self).send(action, tensors)

        self._leaving.append(self._threads[channel].submit(work))

    def flush(self) -> None:
        leaving, self._leaving = self._leaving, []
        for message in leaving:
            message.result()
        super().flush()

    def close(self) -> None:
        for thread in self._threads.values():
            thread.shutdown()
        super().close()


class _SlowLane(ThreadLane):
    def __init__(self, links: _SlowLinks) -> None:
        super().__init__()
        self._slow = links

    def gather(self, module: FSDPModule) -> Wait:
        began = self.run(time.perf_counter)
        gathered = super().gather(module)
        rest = self._rest_of(began, self._slow.gather)

        def wait() -> None:
            gathered()
            rest.result()

        return wait

    def reduce(self, start: Callable[[], None], finish: Callable[[], None]) -> None:
        began = self.run(time.perf_counter)
        super().reduce(start, finish)
        self._reductions.append(self._rest_of(began, self._slow.reduce))

    def _rest_of(self, began: Future[float], seconds: float) -> "Future[None]":
        """What is left of a collective's time when the real one has ended."""
        return self.run(lambda: _sleep_until(began.result() + seconds))


def _sleep_until(end: float) -> None:
    if (left := end - time.perf_counter()) > 0:
        time.sleep(left)


def tiny_blocks(stages: int) -> list[nn.Module]:
    """A model of one small linear layer per stage: [samples, WIDTH] -> the same."""
    return [nn.Linear(WIDTH, WIDTH) for _ in range(stages)]


def tiny_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Anything with a gradient that is contiguous, as torch's own runtime wants it."""
    return (outputs - targets).pow(2).sum()


@dataclass(frozen=True)
class Rehearsal:
    """What a rehearsal found, in seconds."""

    predicted_s: float  # simulated, with the measured times of a message: on its way, and of hosts
    simulated_s: float  # with all of a message's time on its way, as if handing it over were free
    measured_s: float  # the median step, after one to warm up
    latency_s: float  # of a hop, as measured


def rehearse(plan: Plan, costs: Costs, steps: int = 3, program: Program | None = None) -> Rehearsal:
    """Run `steps` steps of the plan; collective, on all its ranks, on CPUs.

    Costs are in seconds: of F, B and W for each stage; of a hop, on top of this machine's own
    latency; of collectives and transfers, the same for all stages, where they take longer than this
    machine's own. `program` is the plan's, where it is made already.

    Raises:
        ValueError: the plan does not fit the world, or costs list another number of stages.
    """
    stages, cpu = plan.pp_size * plan.num_chunks, torch.device("cpu")
    if costs.num_stages != stages:
        raise ValueError(f"costs must list {stages} stages, got {costs.num_stages}")
    delays = costs.latency, costs.transfer[0], costs.gather[0], costs.reduce[0]
    pipe = Pipeline(
        tiny_blocks(stages),
        tiny_loss,
        replace(program or program_of(plan), split=None, recompute=None),
        make_mesh(plan.pp_size, plan.dp_replicate, plan.dp_shard, cpu),
        device=cpu,
        transport=_SlowLinks(*delays) if any(delays) else None,
        end_mesh=close_mesh,
    )
    ends = 0, dist.get_world_size() - 1
    batch = torch.zeros(plan.num_microbatches, WIDTH)
    step = partial(pipe.step, (batch, batch), observer=EmulatedCompute(costs))
    before = measure_hop(*ends, 4 * WIDTH, cpu)
    measured = [timed(step, cpu) for _ in range(steps + 1)][1:]
    after = measure_hop(*ends, 4 * WIDTH, cpu)
    host = (before.host + after.host) / 2
    latency = costs.latency + (before.latency + after.latency) / 2
    predicted = simulate(pipe.program, replace(costs, latency=latency, host=host)).makespan
    simulated = simulate(pipe.program, replace(costs, latency=latency + host)).makespan
    pipe.close()
    return Rehearsal(predicted, simulated, median(measured), latency + host)

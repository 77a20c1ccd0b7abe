"""Rehearsing a plan: its real program over real processes, with sleep for compute.

Everything but the model is real: verified program, channels, transfers, FSDP2's collectives,
split backward. A stage is one tiny layer; each F, B and W is made to take its time.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median

import torch
import torch.distributed as dist
from torch import Tensor, nn

from zeropp.build import program_of
from zeropp.costs import Costs
from zeropp.ir import Action, Program
from zeropp.measure.links import measure_hop
from zeropp.measure.slow_links import SlowLinks
from zeropp.plan import Plan
from zeropp.runtime import Pipeline, make_mesh
from zeropp.runtime.observer import Phase
from zeropp.simulate import simulate

WIDTH = 8
_SPUN_S = 1.5e-4  # the system wakes a sleeper late by up to this; the rest is spun


class EmulatedCompute:
    """Makes every compute action last: pass it to `Pipeline.step` as its observer.

    What a stage does for an action, autograd included, counts; the rest of its time is slept.

    Args:
        costs: seconds of F, B and W for each stage.
    """

    def __init__(self, costs: Costs) -> None:
        self._costs, self._began = costs, 0.0

    def slow_down(self, stage: int, factor: float) -> None:
        """From now on `stage` takes `factor` times as long."""
        self._costs = self._costs.scaled(stage, factor)

    def observe(self, action: Action, phase: Phase) -> None:
        """A phase ends; the computing one not before its time is over."""
        if phase is not Phase.COMPUTE:
            self._began = time.perf_counter()
            return
        rest_until(self._began + self._costs.duration(action))


def rest_until(end: float) -> None:
    """Leave the processor to others until `end`, by `time.perf_counter`, for nearly all of it."""
    if (left := end - time.perf_counter()) > _SPUN_S:
        time.sleep(left - _SPUN_S)
    while time.perf_counter() < end:
        continue


def tiny_blocks(stages: int) -> list[nn.Module]:
    """A model of one small linear layer per stage: [samples, WIDTH] -> the same."""
    return [nn.Linear(WIDTH, WIDTH) for _ in range(stages)]


def tiny_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Anything with a gradient."""
    return (outputs - targets).sum()


@dataclass(frozen=True)
class Rehearsal:
    """What a rehearsal found.

    Attributes:
        predicted_s: the simulated makespan with a hop's measured latency, and with the measured
            time for which a message keeps its ranks from computing.
        simulated_s: with all of a message's time on its way, as if handing it over were free.
        measured_s: the median step, after one to warm up.
        latency_s: of a hop, as measured.
    """

    predicted_s: float
    simulated_s: float
    measured_s: float
    latency_s: float


def rehearse(plan: Plan, costs: Costs, steps: int = 3, program: Program | None = None) -> Rehearsal:
    """Run `steps` steps of the plan; collective, on all its ranks, on CPUs.

    Args:
        plan: what to rehearse; its ranks are the world's.
        costs: seconds of F, B and W for each stage; the latency of a hop, which comes on top of
            this machine's own; and of collectives and transfers, the same for all stages, where
            they take longer than this machine's own.
        steps: how many are measured.
        program: the plan's, where it is made already.

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
        transport=SlowLinks(*delays) if any(delays) else None,
        owns_mesh=True,
    )
    ends = 0, dist.get_world_size() - 1
    batch, emulated = torch.zeros(plan.num_microbatches, WIDTH), EmulatedCompute(costs)

    def step() -> None:
        pipe.step((batch, batch), observer=emulated)

    before = measure_hop(*ends, 4 * WIDTH, cpu)
    measured = [_timed(step) for _ in range(steps + 1)][1:]
    after = measure_hop(*ends, 4 * WIDTH, cpu)
    host = (before.host + after.host) / 2
    latency = costs.latency + (before.latency + after.latency) / 2
    predicted = simulate(pipe.program, replace(costs, latency=latency, host=host)).makespan
    simulated = simulate(pipe.program, replace(costs, latency=latency + host)).makespan
    pipe.close()
    return Rehearsal(predicted, simulated, median(measured), latency + host)


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start

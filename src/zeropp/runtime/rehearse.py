"""Rehearsing a plan: its real program over real processes, with sleep for compute.

Everything but the model is real: verified program, channels, transfers, FSDP2's collectives,
split backward. A stage is one tiny layer that sleeps as long as its F, B and W would take.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
import torch.distributed as dist
from torch import Tensor, nn

from zeropp.costs import Costs
from zeropp.plan import Plan
from zeropp.runtime.gradients import GradientBuffers
from zeropp.runtime.pipeline import Pipeline
from zeropp.simulate import simulate

_WIDTH = 8


_WAKE_UP_S = 3e-4  # the system wakes a sleeper late by about half of this; the rest is spun


def _occupy(seconds: float) -> None:
    """Take `seconds`, leaving the processor to others for nearly all of them."""
    end = time.perf_counter() + seconds
    if seconds > _WAKE_UP_S:
        time.sleep(seconds - _WAKE_UP_S)
    while time.perf_counter() < end:
        continue


@dataclass(frozen=True)
class _SleepRule:
    """A layer y = x * weight whose F, B and W sleep."""

    forward_s: float
    backward_s: float
    weight_s: float

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        _occupy(self.forward_s)
        return x * weight

    def input_gradient(self, grad_output: Tensor, weight: Tensor) -> Tensor:
        _occupy(self.backward_s)
        return grad_output * weight

    def add_weight_gradient(
        self, gradients: GradientBuffers, weight: nn.Parameter, x: Tensor, grad_output: Tensor
    ) -> None:
        _occupy(self.weight_s)
        gradients.add(weight, (x * grad_output).sum(0))


class _Sleeper(nn.Module):
    """The tiny layer of one stage."""

    def __init__(self, rule: _SleepRule) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(_WIDTH))
        self.split_rule = rule

    def forward(self, x: Tensor) -> Tensor:
        return self.split_rule.forward(x, self.weight, None)


class _Stage(nn.Module):
    """A sleeper behind an offset, whose gradient makes the first stage's B run as any other's."""

    def __init__(self, rule: _SleepRule) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(_WIDTH))
        self.sleeper = _Sleeper(rule)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.sleeper(x + self.offset)
        return y


@dataclass(frozen=True)
class Rehearsal:
    """What a rehearsal found.

    Attributes:
        predicted_s: the simulated makespan with the measured latency of a hop.
        measured_s: the median step, after one to warm up.
        latency_s: the measured latency of a hop.
    """

    predicted_s: float
    measured_s: float
    latency_s: float


def rehearse(plan: Plan, costs: Costs, steps: int = 3) -> Rehearsal:
    """Run `steps` steps of the plan; collective, on all its ranks, on CPUs.

    Args:
        plan: what to rehearse; its ranks are the world's.
        costs: seconds of F, B and W for each stage.
        steps: how many are measured.

    Raises:
        ValueError: the plan does not fit the world, or costs list another number of stages.
    """
    stages = plan.placement.num_stages
    rules = zip(costs.forward, costs.backward, costs.weight, strict=True)
    blocks = [_Stage(_SleepRule(*times)) for times in rules]
    if len(blocks) != stages:
        raise ValueError(f"costs must list {stages} stages, got {len(blocks)}")
    pipe = Pipeline(blocks, _loss, plan, device=torch.device("cpu"))
    latency = measure_latency()
    batch = torch.zeros(plan.num_microbatches, _WIDTH)
    measured = [_timed(lambda: pipe.step((batch, batch))) for _ in range(steps + 1)][1:]
    with_latency = Costs(costs.forward, costs.backward, costs.weight, latency)
    report = simulate(pipe.program, with_latency)
    pipe.close()
    return Rehearsal(report.makespan, median(measured), latency)


def measure_latency(rounds: int = 50) -> float:
    """Seconds from one rank's send to another's receive, by ping-pong of the first and the last."""
    last = dist.get_world_size() - 1
    tensor = torch.zeros(_WIDTH)
    if last == 0:
        return 0.0
    dist.barrier()

    def ping_pong() -> None:
        if dist.get_rank() == 0:
            dist.send(tensor, last)
            dist.recv(tensor, last)
        elif dist.get_rank() == last:
            dist.recv(tensor, 0)
            dist.send(tensor, 0)

    seconds = torch.tensor(median(_timed(ping_pong) for _ in range(rounds)) / 2)
    dist.broadcast(seconds, 0)
    return float(seconds)


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).sum()

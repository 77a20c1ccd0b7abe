"""Rehearsing a plan: its real program over real processes, with sleep for compute.

Everything but the model is real: verified program, channels, transfers, FSDP2's collectives,
split backward. A stage is one tiny layer that sleeps as long as its F, B and W would take.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from zeropp.costs import Costs
from zeropp.plan import Plan
from zeropp.runtime.gradients import GradientBuffers
from zeropp.runtime.measure_links import hop_seconds
from zeropp.runtime.pipeline import Pipeline
from zeropp.simulate import simulate

WIDTH = 8
_SPUN_S = 1.5e-4  # the system wakes a sleeper late by up to this; the rest is spun


class _Occupied:
    """A span of time that a stage computes for, its own few operations included."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._end = seconds, 0.0

    def stretch(self, factor: float) -> None:
        self._seconds *= factor

    def begin(self) -> None:
        self._end = time.perf_counter() + self._seconds

    def postpone(self, other: "_Occupied") -> None:
        """End later by what another span took meanwhile."""
        self._end += other._seconds

    def rest(self) -> None:
        """Take what is left, leaving the processor to others for nearly all of it."""
        left = self._end - time.perf_counter()
        if left > _SPUN_S:
            time.sleep(left - _SPUN_S)
        while time.perf_counter() < self._end:
            continue


@dataclass(frozen=True)
class _SleepRule:
    """A layer y = x * weight; its F and B begin here and end in `_Entry` and `EmulatedStage`."""

    forward_time: _Occupied
    backward_time: _Occupied
    weight_time: _Occupied

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return x * weight

    def input_gradient(self, grad_output: Tensor, weight: Tensor) -> Tensor:
        self.backward_time.begin()
        return grad_output * weight

    def add_weight_gradient(
        self, gradients: GradientBuffers, weight: nn.Parameter, x: Tensor, grad_output: Tensor
    ) -> None:
        self.weight_time.begin()
        gradients.add(weight, (x * grad_output).sum(0))
        self.weight_time.rest()
        self.backward_time.postpone(self.weight_time)  # a fused backward runs W inside B


class _Sleeper(nn.Module):
    """The tiny layer of one stage."""

    def __init__(self, rule: _SleepRule) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))
        self.split_rule = rule

    def forward(self, x: Tensor) -> Tensor:
        return self.split_rule.forward(x, self.weight, None)


class _Entry(torch.autograd.Function):
    """x + offset, whose backward is the last of a stage's B.

    The offset's gradient makes the first stage's B run as any other's.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, offset: Tensor, backward_time: _Occupied) -> Tensor:
        ctx.backward_time = backward_time
        return x + offset

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, Tensor, None]:
        gradients = grad_output, grad_output.sum(0)
        ctx.backward_time.rest()
        return *gradients, None


class EmulatedStage(nn.Module):
    """A stage that takes these times for F, B and W of a micro-batch, in seconds."""

    def __init__(self, forward_s: float, backward_s: float, weight_s: float) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(WIDTH))
        self.times = [_Occupied(seconds) for seconds in (forward_s, backward_s, weight_s)]
        self.rule = _SleepRule(*self.times)
        self.sleeper = _Sleeper(self.rule)

    def slow_down(self, factor: float) -> None:
        """Take `factor` times as long from now on."""
        for span in self.times:
            span.stretch(factor)

    def forward(self, x: Tensor) -> Tensor:
        """[samples, WIDTH] -> the same."""
        self.rule.forward_time.begin()
        y: Tensor = self.sleeper(_Entry.apply(x, self.offset, self.rule.backward_time))
        if not x.is_meta:
            self.rule.forward_time.rest()
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
    times = zip(costs.forward, costs.backward, costs.weight, strict=True)
    blocks = [EmulatedStage(*stage) for stage in times]
    if len(blocks) != stages:
        raise ValueError(f"costs must list {stages} stages, got {len(blocks)}")
    pipe = Pipeline(blocks, emulated_loss, plan, device=torch.device("cpu"))
    ends = 0, dist.get_world_size() - 1
    latency = hop_seconds(*ends, 4 * WIDTH, torch.device("cpu"))
    batch = torch.zeros(plan.num_microbatches, WIDTH)
    measured = [_timed(lambda: pipe.step((batch, batch))) for _ in range(steps + 1)][1:]
    with_latency = Costs(costs.forward, costs.backward, costs.weight, latency)
    report = simulate(pipe.program, with_latency)
    pipe.close()
    return Rehearsal(report.makespan, median(measured), latency)


def _timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def emulated_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Anything with a gradient."""
    return (outputs - targets).sum()

"""What one block takes for one micro-batch: F, B and W in seconds, and the bytes that it holds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import median, quantiles
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.utils.flop_counter import FlopCounterMode

from zeropp.ir.program import Recompute
from zeropp.measure.memory import Alive
from zeropp.measure.trace import clock_of
from zeropp.planner.profile import Block
from zeropp.runtime.boundary import Boundaries, Specs, skeleton
from zeropp.runtime.channel import Direct
from zeropp.runtime.inputs import Microbatch, on_device
from zeropp.runtime.lane import Lane
from zeropp.runtime.shard import needs_sharding, place_parameters
from zeropp.runtime.stage import Block as Called
from zeropp.runtime.stage import Head, Stage, StageModule, Tensors, run_blocks

_WARM_UP = 3
_BACKWARD_FLOPS = 2  # B and W each take as many as F


class Spread(NamedTuple):
    """The middle of repeated measurements, and the quartiles around it, in seconds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class MeasuredBlock:
    """A block, and how sure its times are.

    Attributes:
        block: medians, and bytes.
        spreads: of F, B and W.
    """

    block: Block
    spreads: tuple[Spread, Spread, Spread]


@dataclass(frozen=True)
class Meter:
    """Measures blocks of one model.

    Attributes:
        blocks: all of them, on any device; only the structure is kept.
        loss_fn: as for `Pipeline`; its time is the last block's.
        precision: as for `Pipeline`.
        device: where to measure.
        mesh: one rank; FSDP2 casts on it where `precision` asks for another compute dtype.
        repeats: measured runs, after a few that are not; at least 2.
    """

    blocks: Sequence[nn.Module]
    loss_fn: Callable[..., Tensor]
    precision: MixedPrecisionPolicy
    device: torch.device
    mesh: DeviceMesh
    repeats: int = 8

    def measure(
        self, index: int, real: nn.Module, recompute: Recompute, batch: Microbatch
    ) -> MeasuredBlock:
        """Block number `index`.

        Args:
            index: its place in the model.
            real: the block with its parameters, on the device.
            recompute: what its B runs again.
            batch: one micro-batch of the model.
        """
        lane = Direct().lane(self.device)
        try:
            stage = self._stage(index, real, recompute, lane)
            return self._measure(index, stage, batch)
        finally:
            lane.close()

    @cached_property
    def _boundaries(self) -> Boundaries:
        each = [range(i, i + 1) for i in range(len(self.blocks))]
        return Boundaries(self.blocks, each, self.precision)

    def _measure(self, index: int, stage: Stage, batch: Microbatch) -> MeasuredBlock:
        specs = [*self._boundaries.of(batch.inputs, {}), ()]
        head = self._head(batch) if index + 1 == len(self.blocks) else None
        run = _Run(
            stage,
            head,
            self._inputs(index, specs[index], batch),
            self._random(tuple(spec for spec in specs[index + 1] if spec.differentiable))
            if head is None
            else (torch.ones((), device=self.device),),
            self.device,
        )
        for _ in range(_WARM_UP):
            run.once()
        forward, backward, weight = zip(*(run.once() for _ in range(self.repeats)), strict=True)
        spreads = _spread(forward), _spread(backward), _spread(weight)
        until_backward, until_weight, workspace = run.held()
        block = Block(
            spreads[0].median,
            spreads[1].median,
            spreads[2].median,
            until_backward,
            until_weight,
            message=_bytes_of(specs[index + 1]),
            workspace=workspace,
            flops=self._flops(index, specs[index]),
        )
        return MeasuredBlock(block, spreads)

    def _stage(self, index: int, real: nn.Module, recompute: Recompute, lane: Lane) -> Stage:
        module = StageModule({index: real})
        mesh = self.mesh if needs_sharding(1, self.precision) else None
        placed = place_parameters({0: module}, mesh, self.precision, lane)[0]
        placed.unshard()
        placed.wait()
        return Stage(module, placed, self.precision, recompute)

    def _head(self, batch: Microbatch) -> Head:
        targets = on_device(batch.targets, self.device)
        return lambda outputs: (self.loss_fn(*outputs, targets).float(),)

    def _inputs(self, index: int, specs: Specs, batch: Microbatch) -> Callable[[], Tensors]:
        if index == 0:
            return lambda: tuple(t.to(self.device) for t in batch.inputs)
        return lambda: tuple(
            tensor.requires_grad_(spec.differentiable)
            for tensor, spec in zip(self._random(specs), specs, strict=True)
        )

    def _random(self, specs: Specs) -> Tensors:
        """Tensors of these specs; whole numbers are zeros."""
        return tuple(
            spec.empty(self.device).normal_()
            if spec.dtype.is_floating_point
            else spec.empty(self.device).zero_()
            for spec in specs
        )

    def _flops(self, index: int, specs: Specs) -> float:
        """Of F, B and W without anything run again, as matrix products on the meta device."""
        inputs = tuple(spec.empty(torch.device("meta")) for spec in specs)
        block = Called.of(skeleton(self.blocks[index], self.precision))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run_blocks([block], inputs, {}, self.precision)
        return float(counter.get_total_flops() * (1 + _BACKWARD_FLOPS))


@dataclass(frozen=True)
class _Run:
    """One block's F, B and W, again and again; gradients add up."""

    stage: Stage
    head: Head | None
    inputs: Callable[[], Tensors]
    gradients: Tensors
    device: torch.device

    def once(self) -> tuple[float, ...]:
        """Seconds of F, B and W."""
        clock, inputs = clock_of(self.device), self.inputs()
        clock.settle()
        marks = [clock.now()]
        for part in (lambda: self._forward(inputs), self._backward, self._weight):
            part()
            marks.append(clock.now())
        clock.settle()
        return tuple(clock.seconds(*pair) for pair in pairwise(marks))

    def held(self) -> tuple[float, float, float]:
        """Bytes from F until B, from B until W, and the most beyond the former at any time."""
        with Alive() as alive:
            self._forward(self.inputs())
            forward = alive.bytes()
            self._backward()
            between = alive.bytes()
            self._weight()
        return float(forward), float(between), float(max(0, alive.peak - forward))

    def _forward(self, inputs: Tensors) -> None:
        seed = torch.ones((), device=self.device)
        self.stage.forward(0, inputs, {}, seed, self.head)

    def _backward(self) -> None:
        self.stage.backward(0, self.gradients, fused=False)

    def _weight(self) -> None:
        self.stage.weight(0)


def _spread(seconds: Sequence[float]) -> Spread:
    low, _, high = quantiles(seconds, n=4)
    return Spread(median(seconds), low, high)


def _bytes_of(specs: Specs) -> float:
    sizes = (spec.dtype.itemsize * torch.Size(spec.shape).numel() for spec in specs)
    return float(sum(sizes))

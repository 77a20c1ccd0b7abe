"""What one block takes for one micro-batch: F, B and W in seconds, and the bytes that it holds."""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from statistics import median, quantiles
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.utils.flop_counter import FlopCounterMode

from zeropp.ir.program import Recompute
from zeropp.measure.memory import Alive
from zeropp.measure.trace import clock_of
from zeropp.planner.profile import Block, Setting
from zeropp.runtime.boundary import Boundaries, Specs, TensorSpec, skeleton
from zeropp.runtime.channel import Direct
from zeropp.runtime.inputs import Microbatch, on_device
from zeropp.runtime.lane import Lane
from zeropp.runtime.shard import needs_sharding, place_parameters
from zeropp.runtime.stage import Block as Called
from zeropp.runtime.stage import Head, Stage, StageModule, Tensors, run_blocks

_WARM_UP = 3
_REPEATS = 8
_BACKWARD_FLOPS = 2  # B and W each take as many as F

Passes = Callable[[], Iterator[None]]


@dataclass(frozen=True)
class Subject:
    """What is profiled."""

    blocks: Sequence[nn.Module]  # the model, on the meta device
    kinds: tuple[str, ...]  # of each block, by name; one block of each kind is measured
    init: Callable[[int, nn.Module], None]  # fills a block, given its index too
    loss_fn: Callable[..., Tensor]  # as for `Pipeline`; its time is the last block's
    batch: Callable[[int], Microbatch]  # of so many sequences
    seq_len: int
    precision: MixedPrecisionPolicy
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    settings: tuple[Setting, ...]

    def real_block(self, kind: str, device: torch.device) -> nn.Module:
        """The first block of a kind, filled."""
        index = self.kinds.index(kind)
        block = copy.deepcopy(self.blocks[index]).to_empty(device=device)
        self.init(index, block)
        return block


class Spread(NamedTuple):
    """The middle of repeated measurements, and the quartiles around it, in seconds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Measurement:
    """One block of one kind at one setting, on one rank; spreads of its F, B and W."""

    setting: Setting
    kind: str
    block: Block
    spreads: tuple[Spread, Spread, Spread]


class Meter:
    """Measures blocks of one model.

    FSDP2 casts on `mesh`, which is of one rank, where they compute in another dtype.
    """

    def __init__(self, subject: Subject, device: torch.device, mesh: DeviceMesh) -> None:
        self._subject, self._device = subject, device
        self._mesh = mesh if needs_sharding(1, subject.precision) else None
        each = [range(i, i + 1) for i in range(len(subject.blocks))]
        self._boundaries = Boundaries(subject.blocks, each, subject.precision)

    def measure(self, kind: str, setting: Setting, batch: Microbatch) -> Measurement:
        """The first block of a kind, while every rank measures one; collective."""
        index = self._subject.kinds.index(kind)
        real = self._subject.real_block(kind, self._device)
        specs = [*self._boundaries.of(batch.inputs, {}), ()]
        dist.barrier()
        with closing(Direct().lane(self._device)) as lane:
            stage = self._stage(index, real, setting.recompute, lane)
            passes = self._passes(index, stage, specs, batch)
            for _ in range(_WARM_UP):
                _seconds(passes, self._device)
            taken = [_seconds(passes, self._device) for _ in range(_REPEATS)]
            until_backward, until_weight, workspace = _held(passes)
        forward, backward, weight = map(_spread, zip(*taken, strict=True))
        block = Block(
            forward.median,
            backward.median,
            weight.median,
            until_backward,
            until_weight,
            message=_bytes_of(specs[index + 1]),
            workspace=workspace,
            flops=self._flops(index, specs[index]),
        )
        return Measurement(setting, kind, block, (forward, backward, weight))

    def _stage(self, index: int, real: nn.Module, recompute: Recompute, lane: Lane) -> Stage:
        module = StageModule({index: real})
        precision = self._subject.precision
        placed = place_parameters({0: module}, self._mesh, precision, lane)[0]
        placed.unshard()
        placed.wait()
        return Stage(module, placed, precision, recompute)

    def _passes(self, index: int, stage: Stage, specs: list[Specs], batch: Microbatch) -> Passes:
        """A block's F, B and W, with the loss where it is the last; gradients add up."""
        device, outputs = self._device, specs[index + 1]
        seed = torch.ones((), device=device)

        def inputs() -> Tensors:
            if index == 0:
                return tuple(tensor.to(device) for tensor in batch.inputs)
            return _random(specs[index], device)

        if index + 1 == len(self._subject.blocks):
            return partial(_run, stage, inputs, seed, (seed,), self._head(batch))
        wanted = (spec for spec in outputs if spec.differentiable)
        gradients = _random([spec._replace(differentiable=False) for spec in wanted], device)
        return partial(_run, stage, inputs, seed, gradients)

    def _head(self, batch: Microbatch) -> Head:
        targets, loss_fn = on_device(batch.targets, self._device), self._subject.loss_fn
        return lambda outputs: (loss_fn(*outputs, targets).float(),)

    def _flops(self, index: int, specs: Specs) -> float:
        """Of F, B and W without anything run again, as matrix products on the meta device."""
        precision = self._subject.precision
        inputs = tuple(spec.empty(torch.device("meta")) for spec in specs)
        block = Called.of(skeleton(self._subject.blocks[index], precision))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run_blocks([block], inputs, {}, precision)
        return float(counter.get_total_flops() * (1 + _BACKWARD_FLOPS))


def _random(specs: Sequence[TensorSpec], device: torch.device) -> Tensors:
    """Tensors of these specs; whole numbers are zeros."""
    made = []
    for spec in specs:
        fill = torch.randn if spec.dtype.is_floating_point else torch.zeros
        tensor = fill(spec.shape, dtype=spec.dtype, device=device)
        made.append(tensor.requires_grad_(spec.differentiable))
    return tuple(made)


def _run(
    stage: Stage,
    inputs: Callable[[], Tensors],
    seed: Tensor,
    gradients: Tensors,
    head: Head | None = None,
) -> Iterator[None]:
    """One micro-batch: pauses when its inputs are there, after F, after B and after W."""
    given = inputs()
    yield
    stage.forward(0, given, {}, seed, head)
    del given  # the stage keeps what it needs
    yield
    stage.backward(0, gradients, fused=False)
    yield
    stage.weight(0)
    yield


def _seconds(passes: Passes, device: torch.device) -> tuple[float, ...]:
    """Of F, B and W."""
    clock, running = clock_of(device), passes()
    next(running)
    clock.settle()
    marks = [clock.now(), *(clock.now() for _ in running)]
    clock.settle()
    return tuple(clock.seconds(*pair) for pair in pairwise(marks))


def _held(passes: Passes) -> tuple[float, float, float]:
    """Bytes from F until B, from B until W, and the most beyond the former at any time."""
    with Alive() as alive:
        _, forward, between, _ = (alive.bytes() for _ in passes())
    return float(forward), float(between), float(max(0, alive.peak - forward))


def _spread(seconds: Sequence[float]) -> Spread:
    low, _, high = quantiles(seconds, n=4)
    return Spread(median(seconds), low, high)


def _bytes_of(specs: Specs) -> float:
    return float(sum(spec.dtype.itemsize * torch.Size(spec.shape).numel() for spec in specs))

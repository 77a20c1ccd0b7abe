"""Measuring a profile: every kind of block on every rank at once, and the links between them.

Of one block for one micro-batch: F, B and W in seconds, and the bytes that it holds.
"""

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from functools import partial
from itertools import pairwise
from statistics import median, quantiles
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.utils.flop_counter import FlopCounterMode

from zeropp.ir.program import Recompute
from zeropp.measure.links import measure_link
from zeropp.measure.memory import Alive
from zeropp.measure.trace import clock_of
from zeropp.planner.profile import Block, Device, Precision, Profile, Setting
from zeropp.runtime.block import Block as Called
from zeropp.runtime.block import Tensors, run_blocks
from zeropp.runtime.boundary import Boundaries, Specs, TensorSpec, skeleton
from zeropp.runtime.channel import Transport
from zeropp.runtime.inputs import Microbatch
from zeropp.runtime.lane import Lane
from zeropp.runtime.mesh import gathered
from zeropp.runtime.shard import needs_sharding, place_parameters
from zeropp.runtime.stage import Head, Stage, StageModule

_OPTIMIZER_STEPS = 4
_WARM_UP = 3
_REPEATS = 8

Passes = Callable[[], Iterator[None]]


@dataclass(frozen=True)
class Subject:
    """What is profiled."""

    blocks: Sequence[nn.Module]  # the model, on the meta device
    kinds: tuple[str, ...]  # of each block, by name; the last block of each kind is measured
    init: Callable[[int, nn.Module], None]  # fills a block, given its index too
    loss_fn: Callable[..., Tensor]  # as for `Pipeline`; its time is the last block's
    batch: Callable[[int], Microbatch]  # of so many sequences
    seq_len: int
    precision: MixedPrecisionPolicy
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    settings: tuple[Setting, ...]

    def last_of(self, kind: str) -> int:
        """The number of the last block of a kind; gradients may end in the first of them, below
        which all is frozen.
        """
        return len(self.kinds) - 1 - self.kinds[::-1].index(kind)

    def real_block(self, kind: str, device: torch.device) -> nn.Module:
        """The last block of a kind, filled."""
        index = self.last_of(kind)
        block = copy.deepcopy(self.blocks[index]).to_empty(device=device)
        with torch.no_grad():
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


def measure(subject: Subject, device: torch.device) -> Iterator[Measurement]:
    """Measure every kind and setting on this rank, while the other ranks do the same."""
    mesh = init_device_mesh(device.type, (dist.get_world_size(), 1), mesh_dim_names=("rank", "one"))
    meter = _Meter(subject, device, mesh["one"])
    for setting in subject.settings:
        batch = subject.batch(setting.micro_batch_size)
        for kind in dict.fromkeys(subject.kinds):
            yield meter.measure(kind, setting, batch)


def profile(subject: Subject, measurements: Sequence[Measurement], device: torch.device) -> Profile:
    """The profile of this rank's measurements and the others'; collective, the same on every rank.

    Times are medians over the ranks. Links are measured inside the first node, and from each
    node's first rank to the others' where there are several.
    """
    blocks: dict[Setting, dict[str, Block]] = {}
    for same in zip(*gathered(measurements), strict=True):
        found = [one.block for one in same]
        middle = (median(getattr(block, field.name) for block in found) for field in fields(Block))
        blocks.setdefault(same[0].setting, {})[same[0].kind] = Block(*middle)
    per_node = ranks_per_node()
    world = range(dist.get_world_size())
    counts, trained = _counts(subject, lambda _: True), _counts(subject, lambda p: p.requires_grad)
    return Profile(
        _device(device, per_node),
        subject.seq_len,
        subject.kinds,
        counts,
        blocks,
        measure_link(world[:per_node], device),
        measure_link(world[::per_node], device),
        _precision(subject.precision),
        _optimizer_seconds(subject, trained, device),
        (f"measured on {len(world)} ranks at once, torch {torch.__version__}",),
        trained if trained != counts else {},
    )


def _counts(subject: Subject, counted: Callable[[nn.Parameter], bool]) -> dict[str, int]:
    """Of a block of each kind, how many of its parameters."""
    return {
        kind: sum(parameter.numel() for parameter in filter(counted, block.parameters()))
        for kind, block in zip(subject.kinds, subject.blocks, strict=True)
    }


def ranks_per_node() -> int:
    """As torchrun says; all of them, where it does not."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", str(dist.get_world_size())))


def _optimizer_seconds(subject: Subject, counts: Mapping[str, int], device: torch.device) -> float:
    """For each that is trained, on the kind with the most of them; the worst of the ranks."""
    kind = max(counts, key=lambda name: counts[name])
    every = subject.real_block(kind, device).parameters()
    parameters = [parameter for parameter in every if parameter.requires_grad]
    optimizer, clock = subject.optimizer(parameters), clock_of(device)
    marks = []
    for _ in range(_OPTIMIZER_STEPS + 1):
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        start = clock.now()
        optimizer.step()
        marks.append((start, clock.now()))
    clock.settle()
    seconds = median(clock.seconds(*mark) for mark in marks[1:])
    return max(gathered(seconds / counts[kind]))


def _device(device: torch.device, per_node: int) -> Device:
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        return Device(found.name, float(found.total_memory))
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Device("CPU", whole / per_node)


def _precision(policy: MixedPrecisionPolicy) -> Precision:
    """Parameters, their gradients and the two moments of AdamW are kept in fp32."""
    compute = policy.param_dtype or torch.float32
    reduce = policy.reduce_dtype or torch.float32
    return Precision(4.0, float(compute.itemsize), float(reduce.itemsize), 4.0, 8.0)


class _Meter:
    """Measures blocks of one model.

    FSDP2 casts on `mesh`, which is of one rank, where they compute in another dtype.
    """

    def __init__(self, subject: Subject, device: torch.device, mesh: DeviceMesh) -> None:
        self._subject, self._device = subject, device
        self._mesh = mesh if needs_sharding(1, subject.precision) else None
        each = [range(i, i + 1) for i in range(len(subject.blocks))]
        self._boundaries = Boundaries(subject.blocks, each, subject.precision, device)

    def measure(self, kind: str, setting: Setting, batch: Microbatch) -> Measurement:
        """The last block of a kind, while every rank measures one; collective."""
        index = self._subject.last_of(kind)
        real = self._subject.real_block(kind, self._device)
        specs = [*self._boundaries.of(batch.inputs, {}), ()]
        dist.barrier()
        with closing(Transport().lane(self._device)) as lane:
            stage = self._stage(index, real, setting.recompute, lane)
            passes = self._passes(index, stage, specs, batch)
            for _ in range(_WARM_UP):
                _seconds(passes, self._device)
            taken = [_seconds(passes, self._device) for _ in range(_REPEATS)]
            until_backward, until_weight, workspace = _held(passes)
        sent = sum(s.dtype.itemsize * torch.Size(s.shape).numel() for s in specs[index + 1])
        forward, backward, weight = map(_spread, zip(*taken, strict=True))
        block = Block(
            forward.median,
            backward.median,
            weight.median,
            until_backward,
            until_weight,
            message=float(sent),
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
        targets = batch.on(self._device, inputs=False, targets=True).targets
        loss_fn = self._subject.loss_fn
        return lambda outputs: (loss_fn(*outputs, targets).float(),)

    def _flops(self, index: int, specs: Specs) -> float:
        """Of F, B and W without anything run again, as matrix products on the meta device."""
        precision = self._subject.precision
        inputs = tuple(spec.empty(torch.device("meta")) for spec in specs)
        block = Called(index, skeleton(index, self._subject.blocks[index], precision))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            run_blocks([block], inputs, {}, precision)
        sizes = [(p.numel(), p.requires_grad) for p in self._subject.blocks[index].parameters()]
        share = sum(size for size, trained in sizes if trained) / max(1, sum(s for s, _ in sizes))
        return counter.get_total_flops() * (2 + share)  # B takes as many, W where there is one


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

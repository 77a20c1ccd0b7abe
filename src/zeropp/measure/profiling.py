"""Measuring a profile: every kind of block on every rank at once, and the links between them."""

import copy
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy

from zeropp.ir.program import Recompute
from zeropp.measure.blocks import MeasuredBlock, Meter
from zeropp.measure.links import measure_link
from zeropp.measure.trace import clock_of
from zeropp.planner.profile import Block, Device, Precision, Profile, Setting
from zeropp.runtime.inputs import Microbatch
from zeropp.runtime.mesh import gathered

_OPTIMIZER_STEPS = 4


@dataclass(frozen=True)
class Subject:
    """What is profiled.

    Attributes:
        blocks: the model, on the meta device.
        kinds: for each block, the name of its kind; one block of each kind is measured.
        init: `init(index, block)` fills a block.
        loss_fn: as for `Pipeline`.
        batch: a micro-batch of so many sequences.
        seq_len: tokens in a sequence.
        precision: as for `Pipeline`.
        optimizer: makes the optimizer of some parameters.
        settings: micro-batch sizes and ways of recomputing to measure.
    """

    blocks: Sequence[nn.Module]
    kinds: tuple[str, ...]
    init: Callable[[int, nn.Module], None]
    loss_fn: Callable[..., Tensor]
    batch: Callable[[int], Microbatch]
    seq_len: int
    precision: MixedPrecisionPolicy
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Measurement:
    """One block of one kind at one setting, on one rank."""

    setting: Setting
    kind: str
    measured: MeasuredBlock


def measure(subject: Subject, device: torch.device) -> Iterator[Measurement]:
    """Measure every kind and setting on this rank, while the other ranks do the same."""
    mesh = init_device_mesh(device.type, (dist.get_world_size(), 1), mesh_dim_names=("rank", "one"))
    meter = Meter(subject.blocks, subject.loss_fn, subject.precision, device, mesh["one"])
    for setting in subject.settings:
        batch = subject.batch(setting.micro_batch_size)
        for kind in dict.fromkeys(subject.kinds):
            index = subject.kinds.index(kind)
            real = _made_real(subject, index, device)
            dist.barrier()
            recompute = Recompute(setting.recompute)
            yield Measurement(setting, kind, meter.measure(index, real, recompute, batch))


def profile(subject: Subject, measurements: Sequence[Measurement], device: torch.device) -> Profile:
    """The profile of this rank's measurements and the others'; collective, the same on every rank.

    Times are medians over the ranks. Links are measured inside the first node, and from each
    node's first rank to the others' where there are several.
    """
    blocks: dict[Setting, dict[str, Block]] = {}
    for same in zip(*gathered(measurements), strict=True):
        found = _middle([one.measured.block for one in same])
        blocks.setdefault(same[0].setting, {})[same[0].kind] = found
    per_node = ranks_per_node()
    world = range(dist.get_world_size())
    counts = {kind: _parameters(subject, kind) for kind in subject.kinds}
    return Profile(
        _device(device, per_node),
        subject.seq_len,
        subject.kinds,
        counts,
        blocks,
        measure_link(world[:per_node], 1, device),
        measure_link(world[::per_node], 1, device),
        _precision(subject.precision),
        _optimizer_seconds(subject, counts, device),
        (f"measured on {len(world)} ranks at once, torch {torch.__version__}",),
    )


def ranks_per_node() -> int:
    """As torchrun says; all of them, where it does not."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", str(dist.get_world_size())))


def _made_real(subject: Subject, index: int, device: torch.device) -> nn.Module:
    real = copy.deepcopy(subject.blocks[index]).to_empty(device=device)
    subject.init(index, real)
    return real


def _middle(blocks: Sequence[Block]) -> Block:
    values = {f.name: median(getattr(b, f.name) for b in blocks) for f in fields(Block)}
    return replace(blocks[0], **values)


def _parameters(subject: Subject, kind: str) -> int:
    block = subject.blocks[subject.kinds.index(kind)]
    return sum(parameter.numel() for parameter in block.parameters())


def _optimizer_seconds(subject: Subject, counts: Mapping[str, int], device: torch.device) -> float:
    """For each parameter, on the kind with the most of them; the worst of the ranks."""
    kind = max(counts, key=lambda name: counts[name])
    real = _made_real(subject, subject.kinds.index(kind), device)
    parameters = list(real.parameters())
    optimizer, clock = subject.optimizer(parameters), clock_of(device)
    marks: list[Any] = []
    for _ in range(_OPTIMIZER_STEPS + 1):
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        start = clock.now()
        optimizer.step()
        marks.append((start, clock.now()))
    clock.settle()
    seconds = median(clock.seconds(*mark) for mark in marks[1:])
    worst = torch.tensor(seconds / counts[kind], device=device)
    dist.all_reduce(worst, dist.ReduceOp.MAX)
    return float(worst)


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

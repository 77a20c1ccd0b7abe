"""Measuring a profile: every kind of block on every rank at once, and the links between them."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from statistics import median

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy

from zeropp.measure.blocks import Measurement, Meter, Subject
from zeropp.measure.links import measure_link
from zeropp.measure.trace import clock_of
from zeropp.planner.profile import Block, Device, Precision, Profile, Setting
from zeropp.runtime.mesh import gathered

_OPTIMIZER_STEPS = 4


def measure(subject: Subject, device: torch.device) -> Iterator[Measurement]:
    """Measure every kind and setting on this rank, while the other ranks do the same."""
    mesh = init_device_mesh(device.type, (dist.get_world_size(), 1), mesh_dim_names=("rank", "one"))
    meter = Meter(subject, device, mesh["one"])
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
    counts = {
        kind: sum(parameter.numel() for parameter in block.parameters())
        for kind, block in zip(subject.kinds, subject.blocks, strict=True)
    }
    return Profile(
        _device(device, per_node),
        subject.seq_len,
        subject.kinds,
        counts,
        blocks,
        measure_link(world[:per_node], device),
        measure_link(world[::per_node], device),
        _precision(subject.precision),
        _optimizer_seconds(subject, counts, device),
        (f"measured on {len(world)} ranks at once, torch {torch.__version__}",),
    )


def ranks_per_node() -> int:
    """As torchrun says; all of them, where it does not."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", str(dist.get_world_size())))


def _optimizer_seconds(subject: Subject, counts: Mapping[str, int], device: torch.device) -> float:
    """For each parameter, on the kind with the most of them; the worst of the ranks."""
    kind = max(counts, key=lambda name: counts[name])
    parameters = list(subject.real_block(kind, device).parameters())
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

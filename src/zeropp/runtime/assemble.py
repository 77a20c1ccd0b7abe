"""Building what a rank runs on: its stages made real, placed and connected."""

import hashlib
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy

from zeropp.ir import Program, format_program
from zeropp.ir.program import Recompute
from zeropp.plan import Plan
from zeropp.runtime import compat
from zeropp.runtime.boundary import Boundaries
from zeropp.runtime.channel import Transport
from zeropp.runtime.machine import Machine
from zeropp.runtime.mesh import PP, data_mesh, own_pipeline
from zeropp.runtime.shard import needs_sharding, place_parameters
from zeropp.runtime.stage import Stage, StageModule
from zeropp.runtime.ties import Tie, tie_inside
from zeropp.runtime.watchdog import Watchdog

Init = Callable[[int, nn.Module], None]


def assemble(
    blocks: Sequence[nn.Module],
    stages: Sequence[range],
    ties: Sequence[Tie],
    plan: Plan,
    mesh: DeviceMesh,
    precision: MixedPrecisionPolicy,
    device: torch.device,
    init: Init | None,
    timeout: float,
    transport: Transport,
) -> Machine:
    """This rank's machine; collective, on all ranks of `mesh`.

    Raises:
        ValueError: a block of this rank is on the meta device and there is no `init`.
    """
    placement, rank = plan.placement, mesh[PP].get_local_rank()
    boundaries = Boundaries(blocks, stages, precision)
    modules = {
        s: StageModule({i: _materialise(blocks[i], i, device, init) for i in stages[s]})
        for s in placement.stages_of(rank)
    }
    tie_inside(modules, ties)
    dp_mesh = data_mesh(mesh) if needs_sharding(plan.dp_size, precision) else None
    recompute = Recompute(plan.recompute)
    lane = transport.lane(device)
    placed = place_parameters(modules, dp_mesh, precision, lane)
    return Machine(
        placement,
        {s: Stage(modules[s], placed[s], precision, recompute) for s in modules},
        transport.messages(placement, own_pipeline(mesh), device),
        boundaries,
        device,
        Watchdog(placement, rank, compat.common_store(), timeout),
        lane,
    )


def default_device() -> torch.device:
    """The current GPU, or the CPU where there is none."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def require_same_program(program: Program) -> None:
    """Raise ValueError on every rank unless all ranks are about to run the same program."""
    digest = hashlib.sha256(format_program(program).encode()).hexdigest()
    digests: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(digests, digest)
    different = [rank for rank, other in enumerate(digests) if other != digests[0]]
    if different:
        raise ValueError(f"plan: ranks {different} have another program than rank 0")


def _materialise(
    block: nn.Module, index: int, device: torch.device, init: Init | None
) -> nn.Module:
    tensors = [*block.parameters(), *block.buffers()]
    if not any(tensor.is_meta for tensor in tensors):
        return block.to(device)
    if init is None:
        raise ValueError(f"block {index} is on the meta device; pass init to fill it")
    block = block.to_empty(device=device)
    init(index, block)
    return block

"""Building what a rank runs on: its stages made real, placed and connected."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy

import zeropp.runtime.compat as compat
from zeropp.ir.placement import Placement
from zeropp.ir.program import Program, Recompute
from zeropp.ir.text import format_program
from zeropp.runtime.boundary import Boundaries
from zeropp.runtime.channel import Transport
from zeropp.runtime.executor import Machine
from zeropp.runtime.mesh import PP, data_mesh, data_size, gathered, own_pipeline
from zeropp.runtime.shard import needs_sharding, place_parameters
from zeropp.runtime.stage import Stage, StageModule
from zeropp.runtime.ties import Tie, tie_inside
from zeropp.runtime.watchdog import Watchdog

Init = Callable[[int, nn.Module], None]


@dataclass(frozen=True)
class Model:
    """A model cut into stages.

    Attributes:
        blocks: all of them, on any device.
        stages: for each stage, the indices of its blocks.
        ties: parameters that several blocks share.
        init: `init(index, block)` fills a block that is on the meta device.
        recompute: what of a block is run again in its B.
        precision: what blocks compute in.
    """

    blocks: Sequence[nn.Module]
    stages: Sequence[range]
    ties: Sequence[Tie]
    init: Init | None
    recompute: Recompute
    precision: MixedPrecisionPolicy

    def real_stage(self, stage: int, device: torch.device) -> StageModule:
        """The blocks of a stage on `device`, those on meta filled by `init`.

        Raises:
            ValueError: a block is on the meta device and there is no `init`.
        """
        return StageModule({i: self._real(i, device) for i in self.stages[stage]})

    def _real(self, index: int, device: torch.device) -> nn.Module:
        block = self.blocks[index]
        if not any(tensor.is_meta for tensor in (*block.parameters(), *block.buffers())):
            return block.to(device)
        if self.init is None:
            raise ValueError(f"block {index} is on the meta device; pass init to fill it")
        block = block.to_empty(device=device)
        self.init(index, block)
        return block


def assemble(
    model: Model,
    placement: Placement,
    mesh: DeviceMesh,
    device: torch.device,
    timeout: float,
    transport: Transport,
) -> Machine:
    """This rank's machine; collective, on all ranks of `mesh`.

    Raises:
        ValueError: a block of this rank is on the meta device and there is no `init`.
    """
    rank, precision = mesh[PP].get_local_rank(), model.precision
    boundaries = Boundaries(model.blocks, model.stages, precision)
    modules = {s: model.real_stage(s, device) for s in placement.stages_of(rank)}
    tie_inside(modules, model.ties)
    dp_mesh = data_mesh(mesh) if needs_sharding(data_size(mesh), precision) else None
    lane = transport.lane(device)
    placed = place_parameters(modules, dp_mesh, precision, lane)
    return Machine(
        {s: Stage(modules[s], placed[s], precision, model.recompute) for s in modules},
        transport.messages(placement, own_pipeline(mesh), device),
        boundaries,
        device,
        Watchdog(placement, rank, compat.common_store(), timeout),
        lane,
    )


def require_same_program(program: Program) -> None:
    """Raise ValueError on every rank unless all ranks are about to run the same program."""
    digest = hashlib.sha256(format_program(program).encode()).hexdigest()
    digests = gathered(digest)
    different = [rank for rank, other in enumerate(digests) if other != digests[0]]
    if different:
        raise ValueError(f"program: ranks {different} have another program than rank 0")

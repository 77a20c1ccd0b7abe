"""Building what a rank runs on: its stages made real, placed and connected."""

import copy
import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor, nn
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
from zeropp.runtime.ties import Tie, tie_inside, tied_blocks
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

    def real_stages(self, own: Sequence[int], device: torch.device) -> dict[int, StageModule]:
        """A rank's stages on `device`, blocks on meta filled by `init`.

        A module that two of the stages hold is copied for the second; the tensors are the same.

        Raises:
            ValueError: a block is on the meta device and there is no `init`, or `init` has left
                something of it empty.
        """
        taken: set[nn.Module] = set()
        found = {}
        for stage in own:
            blocks = {i: self._real(i, device) for i in self.stages[stage]}
            if any(taken.intersection(block.modules()) for block in blocks.values()):
                blocks = _copied(blocks)
            taken.update(module for block in blocks.values() for module in block.modules())
            found[stage] = StageModule(blocks)
        return found

    def shared_buffers(self) -> frozenset[str]:
        """Global names of the buffers of modules that several stages hold."""
        holders: dict[nn.Module, set[int]] = defaultdict(set)
        names: dict[nn.Module, list[str]] = defaultdict(list)
        for stage, indices in enumerate(self.stages):
            for index in indices:
                for path, module in self.blocks[index].named_modules(prefix=str(index)):
                    holders[module].add(stage)
                    names[module] += [f"{path}.{name}" for name in module._buffers]
        several = (module for module, stages in holders.items() if len(stages) > 1)
        return frozenset(name for module in several for name in names[module])

    def _real(self, index: int, device: torch.device) -> nn.Module:
        block = self.blocks[index]
        tensors = [*block.named_parameters(), *block.named_buffers()]
        empty = [name for name, tensor in tensors if tensor.is_meta]
        block._apply(lambda t: _unfilled(t, device) if t.is_meta else t.to(device))
        if not empty:
            return block
        if self.init is None:
            raise ValueError(f"block {index} is on the meta device; pass init to fill it")
        self.init(index, block)
        tensors = [*block.named_parameters(), *block.named_buffers()]
        for name, tensor in tensors:
            if name in empty and _has_unfilled(tensor):
                raise ValueError(
                    f"init has not filled {index}.{name}, which was on the meta device"
                )
        return block


def _copied(blocks: dict[int, nn.Module]) -> dict[int, nn.Module]:
    """Modules of their own with the same tensors, shared among them as they were."""
    memo = {
        id(tensor): tensor
        for block in blocks.values()
        for tensor in (*block.parameters(), *block.buffers())
    }
    return copy.deepcopy(blocks, memo)


def _unfilled(tensor: Tensor, device: torch.device) -> Tensor:
    """Room for a tensor, with what no `init` would write."""
    return torch.full_like(tensor, _mark(tensor.dtype), device=device)


def _mark(dtype: torch.dtype) -> Any:
    if dtype.is_floating_point or dtype.is_complex:
        return float("nan")
    return False if dtype is torch.bool else torch.iinfo(dtype).max


def _has_unfilled(tensor: Tensor) -> bool:
    if tensor.dtype is torch.bool or not tensor.numel():
        return False
    mark = _mark(tensor.dtype)
    return bool((tensor.isnan() if mark != mark else tensor == mark).any())


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
    travels = placement.pp_size > 1
    boundaries = Boundaries(model.blocks, model.stages if travels else (), precision)
    shared, tied = model.shared_buffers(), tied_blocks(model.ties)
    modules = model.real_stages(placement.stages_of(rank), device)
    tie_inside(modules, model.ties)
    dp_mesh = data_mesh(mesh) if needs_sharding(data_size(mesh), precision) else None
    lane = transport.lane(device)
    placed = place_parameters(modules, dp_mesh, precision, lane)
    return Machine(
        {
            s: Stage(modules[s], placed[s], precision, model.recompute, shared, tied)
            for s in modules
        },
        transport.messages(placement, own_pipeline(mesh), device),
        boundaries,
        device,
        Watchdog(placement, rank, compat.common_store(), timeout, gathered(uuid4().hex)[0]),
        lane,
        travels,
    )


def require_same_program(program: Program) -> None:
    """Raise ValueError on every rank unless all ranks are about to run the same program."""
    digest = hashlib.sha256(format_program(program).encode()).hexdigest()
    digests = gathered(digest)
    different = [rank for rank, other in enumerate(digests) if other != digests[0]]
    if different:
        raise ValueError(f"program: ranks {different} have another program than rank 0")

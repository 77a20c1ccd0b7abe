"""Building what a rank runs on: its stages made real, placed and connected."""

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy

import zeropp.runtime.compat as compat
from zeropp.ir.placement import Placement, stage_blocks
from zeropp.ir.program import Program, Recompute
from zeropp.runtime.agreement import together
from zeropp.runtime.boundary import Boundaries
from zeropp.runtime.channel import Transport
from zeropp.runtime.executor import Machine
from zeropp.runtime.keywords import Derived
from zeropp.runtime.mesh import PP, REPLICATE, SHARD, data_size, new_name, own_pipeline, size_along
from zeropp.runtime.shard import (
    needs_sharding,
    place_parameters,
    require_followed,
    require_trainable,
)
from zeropp.runtime.stage import Stage, StageModule
from zeropp.runtime.ties import find_ties, local_part, tie_inside, tied_blocks
from zeropp.runtime.watchdog import Watchdog

Init = Callable[[int, nn.Module], None]


class Model:
    """A model cut into the stages of a program; arguments as those of `Pipeline`.

    Attributes:
        stages: for each stage, the indices of its blocks.
        ties: parameters that several blocks share.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        program: Program,
        split: tuple[int, ...] | None,
        recompute: str | None,
        init: Init | None,
        load: Init | None,
        precision: MixedPrecisionPolicy,
        derived: Derived,
    ) -> None:
        _require_unwrapped(blocks)
        require_followed(precision)
        self.blocks, self.precision, self.derived = blocks, precision, derived
        self._init, self._load = init, load
        sizes = _agreed("split", split, program.split)
        self.stages = stage_blocks(len(blocks), program.placement.num_stages, sizes)
        again = _agreed("recompute", recompute, program.recompute)
        self.recompute = Recompute(again or Recompute.NONE)
        self.ties = find_ties(blocks, self.stages)

    @property
    def same_everywhere(self) -> dict[str, object]:
        """What all ranks must have been given alike, by the names of arguments."""
        return {
            "blocks": [
                [(name, p.shape, p.dtype, p.requires_grad) for name, p in block.named_parameters()]
                for block in self.blocks
            ],
            "split": [len(stage) for stage in self.stages],
            "recompute": self.recompute.value,
            "precision": repr(self.precision),
            "derived": sorted(self.derived),
        }

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
        empty = _empty(block)
        if empty and self._load is not None:
            return block  # until its parameters are sharded
        block._apply(lambda t: _unfilled(t, device) if t.is_meta else t.to(device))
        if empty and self._init is None:
            raise ValueError(f"block {index} is on the meta device; pass init or load to fill it")
        if empty and self._init is not None:
            _filled(self._init, index, block, empty)
        return block

    def fill(self, module: StageModule, device: torch.device) -> None:
        """Load what is still empty of a stage, whose parameters are sharded by now."""
        empty = {index: _empty(block) for index, block in module.numbered}
        if self._load is None or not any(empty.values()):
            return
        module._apply(lambda t: _unfilled(t, device) if t.is_meta else t)
        for index, block in module.numbered:
            _filled(self._load, index, block, empty[index])


def _empty(block: nn.Module) -> list[str]:
    tensors = (*block.named_parameters(), *block.named_buffers())
    return [name for name, tensor in tensors if tensor.is_meta]


def _filled(fill: Init, index: int, block: nn.Module, empty: Sequence[str]) -> None:
    """Fill a block; raise ValueError if something is still `empty`."""
    with torch.no_grad():
        fill(index, block)
    for name, tensor in (*block.named_parameters(), *block.named_buffers()):
        if name in empty and _has_unfilled(local_part(tensor)):
            raise ValueError(f"{index}.{name}, which was on the meta device, has not been filled")


def _require_unwrapped(blocks: Sequence[nn.Module]) -> None:
    """Refuse what hides a block: what `torch.compile(block)` returns, and modules of torch.jit."""
    for index, block in enumerate(blocks):
        if any(isinstance(module, torch.jit.ScriptModule) for module in block.modules()):
            raise ValueError(
                f"block {index} is of torch.jit, or holds what is, which cannot be cut or sharded; "
                "pass the module that was scripted or traced"
            )
        if "_orig_mod" in dict(block.named_children()):
            raise ValueError(
                f"block {index} is the wrapper that torch.compile returns, which renames "
                "parameters; compile the block in place instead: block.compile()"
            )


def _agreed(name: str, asked: object, programs: object) -> Any:
    """What was asked for, or what the program says; both must agree."""
    if asked is not None and programs is not None and asked != programs:
        raise ValueError(f"{name}: the program says {programs}, got {asked}; leave it out")
    return programs if asked is None else asked


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
    """This rank's machine; collective, on all ranks of `mesh`."""
    rank, precision, travels = mesh.get_local_rank(PP), model.precision, placement.pp_size > 1
    stages = model.stages if travels else ()
    boundaries = Boundaries(model.blocks, stages, precision, device, model.derived)
    shared, tied = model.shared_buffers(), tied_blocks(model.ties)
    dp_mesh = None
    if needs_sharding(data_size(mesh), precision):  # FSDP2 wants one axis, or two for HSDP
        dp_mesh = mesh[REPLICATE, SHARD] if size_along(mesh, REPLICATE) > 1 else mesh[SHARD]
    lane = transport.lane(device)

    def real() -> dict[int, StageModule]:
        modules = model.real_stages(placement.stages_of(rank), device)
        tie_inside(modules, model.ties)
        for module in modules.values():
            require_trainable(module, sharded=dp_mesh is not None)
        return modules

    modules, fill = together(real), partial(model.fill, device=device)
    placed = together(lambda: place_parameters(modules, dp_mesh, precision, lane, fill))
    return Machine(
        {
            s: Stage(modules[s], placed[s], precision, model.recompute, shared, tied)
            for s in modules
        },
        transport.messages(placement, own_pipeline(mesh), device),
        boundaries,
        device,
        Watchdog(placement, rank, compat.common_store(), timeout, new_name()),
        lane,
        travels,
    )

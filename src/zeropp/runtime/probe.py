"""Shapes between stages by one real forward, stage after stage, where blocks do not run on meta.

Blocks that look at values (experts, `.item()`, numpy) or at their tensors' device (autocast) say
what they give only when they are run. Nothing is left of that run: no graph, no changed buffer, no
random number drawn.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from zeropp.ir.placement import Placement
from zeropp.runtime.block import Tensors
from zeropp.runtime.boundary import Boundaries, NotOnMetaError, Specs, TensorSpec
from zeropp.runtime.executor import Work
from zeropp.runtime.mesh import PP, as_carried, gathered, greatest
from zeropp.runtime.stage import Stage


class Probe:
    """Finds what travels, for a pipeline in which something does, and tells the boundaries."""

    def __init__(
        self,
        boundaries: Boundaries,
        stages: Mapping[int, Stage],
        placement: Placement,
        mesh: DeviceMesh,
        device: torch.device,
    ) -> None:
        self._boundaries, self._stages, self._placement = boundaries, stages, placement
        self._mesh, self._device, self._me = mesh, device, mesh.get_local_rank(PP)
        self._on_meta: bool | None = None  # whether the blocks run there; None: not known yet

    def find(self, works: Sequence[Work]) -> None:
        """Make these micro-batches' shapes known; collective, on all ranks, where blocks are run,
        with a ValueError on every rank where one fails.
        """
        if self._on_meta is None:
            self._on_meta = not greatest(not self._tried_on_meta(works[0]))[0]
        if self._on_meta and not torch.is_autocast_enabled(self._device.type):
            return
        new = [w for w in works if not self._boundaries.knows(w.inputs, w.named.tensors)]
        (rounds,) = greatest(len(new))
        if not rounds:
            return
        failures = [self._forward(new[n] if n < len(new) else works[0]) for n in range(rounds)]
        failed = [said for said in gathered(next(filter(None, failures), None)) if said]
        if failed:
            raise ValueError(failed[0])

    def _tried_on_meta(self, work: Work) -> bool:
        try:
            self._boundaries.of(work.inputs, work.named.tensors)
        except NotOnMetaError:
            return False
        return True

    def _forward(self, work: Work) -> str | None:
        """One forward through all stages but the last, whose outputs do not travel; what failed."""
        tensors: Tensors = tuple(tensor.to(self._device) for tensor in work.inputs)
        found = [tuple(TensorSpec.of(tensor) for tensor in tensors)]
        failed: str | None = None
        for stage in range(self._placement.num_stages - 1):
            owner = self._placement.rank_of(stage)
            header: list[Any] = [failed]
            if self._me == owner:
                try:
                    tensors = self._stages[stage].tried(tensors, work.named, run=failed is None)
                    header = [failed or tuple(TensorSpec.of(tensor) for tensor in tensors)]
                except Exception as error:
                    header = [f"stage {stage}: {type(error).__name__}: {error}"]
            dist.broadcast_object_list(header, group=self._mesh.get_group(PP), group_src=owner)
            if isinstance(header[0], str):
                failed = header[0]
                continue
            tensors = self._passed_on(tensors, header[0], owner)
            found.append(header[0])
        if failed is None:
            self._boundaries.learn(work.inputs, work.named.tensors, tuple(found))
        return failed

    def _passed_on(self, tensors: Tensors, specs: Specs, owner: int) -> Tensors:
        """A stage's outputs on all ranks, which may all need them next."""
        if self._me != owner:
            tensors = tuple(spec.empty(self._device) for spec in specs)
        data: list[Tensor] = [tensor.detach().contiguous() for tensor in tensors]
        for tensor in data:
            dist.broadcast(as_carried(tensor), group=self._mesh.get_group(PP), group_src=owner)
        return tuple(spec.arrived(t) for t, spec in zip(data, specs, strict=True))

"""Optimizers of whole matrices, such as Muon, where FSDP2 has sharded these by rows.

Of shards, torch would gather or sum in bf16 for every product of Muon's, by collectives that can
crash on gloo (docs/compat.md).
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from zeropp.runtime.ties import sharded_as


class WholeMatrices(torch.optim.Optimizer):
    """Put before an optimizer among a class's bases, and its step sees whole tensors.

    One parameter after the other is gathered with its gradient and state, and stepped by every rank
    that has rows of it, which keeps these: as in plain PyTorch to the last bit, and with no more
    than one whole at a time. What is not sharded is stepped as it is.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Step; collective, on all ranks that share parameters."""
        groups = self.param_groups
        try:
            for group in groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._step_one(parameter, group)
        finally:
            self.param_groups = groups

    def _step_one(self, parameter: nn.Parameter, group: dict[str, Any]) -> None:
        full = parameter
        if isinstance(parameter, DTensor):
            full = nn.Parameter(whole(parameter))
            full.grad = whole(parameter.grad)
            held = self.state.get(parameter, {})
            self.state[full] = {name: whole(value) for name, value in held.items()}
        self.param_groups = [group | {"params": [full]}]
        super().step()
        if isinstance(parameter, DTensor):
            parameter.to_local().copy_(_rows(full, parameter))
            held = self.state.pop(full)
            self.state[parameter] = {name: _shard(v, parameter) for name, v in held.items()}


def whole(value: Any) -> Any:
    """A sharded tensor's rows of all ranks, on each of these; anything else as it is."""
    if not isinstance(value, DTensor):
        return value
    group, most = _shards(value)
    own = value.to_local()
    part = own.new_zeros(most, *value.shape[1:])
    part[: len(own)] = own
    parts = [torch.empty_like(part) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, part, group)
    return torch.cat(parts)[: len(value)]


def _shard(value: Any, parameter: Any) -> Any:
    """A state as it is kept between steps: as its parameter, where it is of its shape."""
    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return sharded_as(parameter, _rows(value, parameter).clone())


def _rows(full: Tensor, parameter: DTensor) -> Tensor:
    group, most = _shards(parameter)
    return full.detach()[dist.get_rank(group) * most :][: len(parameter.to_local())]


def _shards(tensor: DTensor) -> tuple[dist.ProcessGroup, int]:
    """Who shares the rows, and how many one has, but that the last ones may have fewer."""
    (axis,) = (i for i, placement in enumerate(tensor.placements) if placement.is_shard(0))
    group = tensor.device_mesh.get_group(axis)
    return group, -(-len(tensor) // dist.get_world_size(group))

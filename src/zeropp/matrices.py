"""Optimizers of whole matrices, such as Muon, where FSDP2 has sharded these by rows.

torch's own tensor operations would gather a matrix for every product of Muon's, or sum its products
in bf16; and on gloo they call what can crash (docs/compat.md). Here it is gathered once a step.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from zeropp.runtime.ties import sharded_as


class WholeMatrices(torch.optim.Optimizer):
    """Put before an optimizer among a class's bases, and its step sees whole tensors.

    One parameter after the other is gathered, with its gradient and state, and stepped by every
    rank that has rows of it, which keeps these. So all are as in plain PyTorch to the last bit, and
    no more than one is whole at a time. What is not sharded is stepped as it is.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Step; collective, on all ranks that share parameters."""
        groups = self.param_groups
        try:
            for group in groups:
                self._step_each(group)
        finally:
            self.param_groups = groups

    def _step_each(self, group: dict[str, Any]) -> None:
        parameters = group["params"]
        self.param_groups = [group]
        try:
            for parameter in parameters:
                if parameter.grad is not None:
                    self._step_one(group, parameter)
        finally:
            group["params"] = parameters

    def _step_one(self, group: dict[str, Any], parameter: nn.Parameter) -> None:
        if not isinstance(parameter, DTensor):
            group["params"] = [parameter]
            super().step()
            return
        full = nn.Parameter(_whole(parameter))
        full.grad = _whole(parameter.grad)
        held = self.state.get(parameter, {})
        self.state[full] = {name: _whole(value) for name, value in held.items()}
        group["params"] = [full]
        try:
            super().step()
        finally:
            state = self.state.pop(full)
        parameter.to_local().copy_(_rows(full, parameter))
        self.state[parameter] = {name: _sharded(v, parameter) for name, v in state.items()}


def _whole(value: Any) -> Any:
    """A sharded tensor's rows of all ranks; anything else as it is."""
    if not isinstance(value, DTensor):
        return value
    group, ranks, local = *_shards(value), value.to_local()
    part = local.new_zeros(-(-len(value) // ranks), *value.shape[1:])  # the last have fewer rows
    part[: len(local)] = local
    parts = [torch.empty_like(part) for _ in range(ranks)]
    dist.all_gather(parts, part, group)
    return torch.cat(parts)[: len(value)]


def _rows(full: Tensor, parameter: DTensor) -> Tensor:
    """This rank's."""
    group, ranks = _shards(parameter)
    start = dist.get_rank(group) * -(-len(full) // ranks)
    return full.detach()[start:][: len(parameter.to_local())]


def _sharded(value: Any, parameter: Any) -> Any:
    """A state as it is held between steps: placed as its parameter, where it is of its shape."""
    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value
    return sharded_as(parameter, _rows(value, parameter).clone())


def _shards(tensor: DTensor) -> tuple[dist.ProcessGroup, int]:
    """The ranks among which the rows are shared, and how many they are."""
    (axis,) = (i for i, placement in enumerate(tensor.placements) if placement.is_shard(0))
    group = tensor.device_mesh.get_group(axis)
    return group, dist.get_world_size(group)

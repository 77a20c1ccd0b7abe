"""Constants of a step: tensors, such as masks, that blocks need and that no micro-batch changes.

A block asks for one by a keyword-only argument of its `forward`. Pipeline rank 0 gives them with
the batch; they are sent once a step to the other ranks, not from stage to stage with every
micro-batch. They get no gradient.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy

from zeropp.runtime.shard import compute_dtype

Constants = Mapping[str, Tensor]


def constants_of(block: nn.Module) -> dict[str, bool]:
    """The constants that `block` asks for, and whether it has to have each."""
    parameters = inspect.signature(type(block).forward).parameters.values()
    return {
        p.name: p.default is inspect.Parameter.empty
        for p in parameters
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    }


class ConstantSender:
    """Shares a step's constants along one pipeline.

    Args:
        blocks: all blocks of the model, which say what they ask for.
        pipeline: its axis of the mesh; the first of its ranks gives.
        device: where the constants are needed.
        precision: the dtype in which blocks compute, to which floating-point constants are cast.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        pipeline: DeviceMesh,
        device: torch.device,
        precision: MixedPrecisionPolicy,
    ) -> None:
        asked = [constants_of(block) for block in blocks]
        self._names = {name for names in asked for name in names}
        self._required = {name for names in asked for name, must in names.items() if must}
        self._pipeline, self._device, self._precision = pipeline, device, precision

    def share(self, given: Constants | None) -> dict[str, Tensor]:
        """What the first rank gave, on every rank; no communication where no block asks.

        Raises:
            ValueError: on every rank, where the first gave other names than the blocks ask for.
        """
        given = given or {}
        if not self._names:
            if given:
                raise ValueError(self._complaint(given))
            return {}
        group = self._pipeline.get_group()
        leads = dist.get_group_rank(group, dist.get_rank()) == 0
        header: list[Any] = [None]
        if leads:
            bad = given.keys() - self._names or self._required - given.keys()
            specs = {name: (t.shape, t.dtype) for name, t in given.items()}
            header = [self._complaint(given) if bad else specs]
        dist.broadcast_object_list(header, group=group, group_src=0)
        if isinstance(header[0], str):
            raise ValueError(header[0])
        return {name: self._share(given.get(name), *spec) for name, spec in header[0].items()}

    def _share(self, given: Tensor | None, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        if given is not None:
            tensor = given.detach().to(self._device).contiguous()
        else:
            tensor = torch.empty(shape, dtype=dtype, device=self._device)
        dist.broadcast(tensor, group=self._pipeline.get_group(), group_src=0)
        return tensor.to(compute_dtype(self._precision, dtype))

    def _complaint(self, given: Constants) -> str:
        wanted = ", ".join(sorted(self._names)) or "none"
        return (
            f"constants: the blocks ask for {wanted} (keyword-only arguments of forward), pipeline "
            f"rank 0 was given {', '.join(sorted(given)) or 'none'}"
        )

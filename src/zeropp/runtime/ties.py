"""Tied parameters: one tensor used by several blocks, such as the embedding and the head of a GPT.

    blocks of one stage     one parameter, as in plain PyTorch
    stages                  a copy in each stage, sharded with it: copies start equal (the first
                            stage's values are taken), their gradients are summed after the step's
                            last REDUCE, so every copy makes the same optimizer step

The first stage's copy is the owner: it alone counts in the norm of the gradients, and checkpoints
hold its name. Ties are found by identity, also on the meta device.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from zeropp.ir.placement import Placement
from zeropp.runtime.compat import end_group, new_group
from zeropp.runtime.mesh import REPLICATE, own_pipeline, size_along


@dataclass(frozen=True)
class Tie:
    """A parameter with several names.

    Attributes:
        names: global names, such as `0.token.weight`, by stage; the stages in forward order.
    """

    names: Mapping[int, tuple[str, ...]]

    @property
    def owner(self) -> str:
        """The name under which checkpoints hold it."""
        return next(iter(self.names.values()))[0]

    @property
    def others(self) -> tuple[str, ...]:
        """The other names."""
        return tuple(name for names in self.names.values() for name in names)[1:]


def find_ties(blocks: Sequence[nn.Module], stages: Sequence[range]) -> tuple[Tie, ...]:
    """The parameters that more than one name of these blocks leads to."""
    places: dict[nn.Parameter, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for stage, indices in enumerate(stages):
        for index in indices:
            for name, parameter in blocks[index].named_parameters(remove_duplicate=False):
                places[parameter][stage].append(f"{index}.{name}")
    ties = (Tie({s: tuple(names) for s, names in place.items()}) for place in places.values())
    return tuple(tie for tie in ties if tie.others)


def owner_names(ties: Sequence[Tie]) -> dict[str, str]:
    """For every other name of a tied parameter, its owner's."""
    return {name: tie.owner for tie in ties for name in tie.others}


def tied_blocks(ties: Sequence[Tie]) -> frozenset[int]:
    """The numbers of the blocks that share a parameter with another."""
    sharing = ({int(name.split(".")[0]) for name in (tie.owner, *tie.others)} for tie in ties)
    return frozenset(index for blocks in sharing if len(blocks) > 1 for index in blocks)


def tie_inside(modules: Mapping[int, nn.Module], ties: Sequence[Tie]) -> None:
    """Give each stage one parameter of its own for a tie, whatever was done to its blocks.

    Args:
        modules: stages of this rank; their parameters have global names.
        ties: of the whole model.
    """
    for tie in ties:
        for stage in tie.names.keys() & modules.keys():
            first, *more = tie.names[stage]
            parameter = modules[stage].get_parameter(first)
            if first != tie.owner:  # on one rank with the owner's stage it may be the same object
                parameter = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
            for name in (first, *more):
                path, _, attribute = name.rpartition(".")
                setattr(modules[stage].get_submodule(path), attribute, parameter)


class TiedCopies:
    """The copies of ties that lie on several stages.

    Args:
        ties: of the whole model.
        placement: stage -> rank of a pipeline of the mesh.
        modules: stages of this rank, parameters placed.
    """

    def __init__(
        self,
        ties: Sequence[Tie],
        placement: Placement,
        mesh: DeviceMesh,
        modules: Mapping[int, nn.Module],
    ) -> None:
        self._copies: list[tuple[list[nn.Parameter], dist.ProcessGroup | None]] = []
        self._owned_elsewhere: set[nn.Parameter] = set()
        self._groups: dict[tuple[int, ...], dist.ProcessGroup] = {}
        pipeline = own_pipeline(mesh)
        for tie in ties:
            held = [
                modules[stage].get_parameter(names[0])
                for stage, names in tie.names.items()
                if stage in modules
            ]
            if len(tie.names) == 1 or not held:
                continue
            first = next(iter(tie.names))
            group = self._group({pipeline[placement.rank_of(stage)] for stage in tie.names})
            self._owned_elsewhere |= set(held[first in modules :])
            self._copies.append((held, group))
            _equalise(held, group, source=pipeline[placement.rank_of(first)])

    def owns(self, parameter: nn.Parameter) -> bool:
        """Whether `parameter` is no tie's copy but its owner, or not tied."""
        return parameter not in self._owned_elsewhere

    def set_aside(self) -> list[list[Tensor | None]]:
        """Take what earlier steps left in the copies' `.grad`, which is summed already."""
        held: list[list[Tensor | None]] = []
        for copies, _ in self._copies:
            held.append([copy.grad for copy in copies])
            for copy in copies:
                copy.grad = None
        return held

    def sum_gradients(self, held: list[list[Tensor | None]]) -> None:
        """Give every copy the sum of all copies' gradients of this step, and what it held."""
        for (copies, group), before in zip(self._copies, held, strict=True):
            if not copies[0].requires_grad:
                continue
            total = torch.zeros_like(local_part(copies[0].detach()))
            for copy in copies:
                if copy.grad is not None:
                    total += local_part(copy.grad)
            if group is not None:
                dist.all_reduce(total, group=group)
            for copy, earlier in zip(copies, before, strict=True):
                mine = total if earlier is None else total + local_part(earlier)
                copy.grad = sharded_as(copy, mine.clone())

    def close(self) -> None:
        """Destroy the process groups."""
        for group in self._groups.values():
            end_group(group)
        self._groups.clear()
        self._copies.clear()

    def _group(self, ranks: set[int]) -> dist.ProcessGroup | None:
        """The group of the global ranks `ranks`; None if one rank has all copies."""
        if len(ranks) == 1:
            return None
        members = tuple(sorted(ranks))
        if members not in self._groups:
            self._groups[members] = new_group(members, "tie")
        return self._groups[members]


@torch.no_grad()
def _equalise(copies: list[nn.Parameter], group: dist.ProcessGroup | None, source: int) -> None:
    """Give all copies the first one's value, which global rank `source` has."""
    value = local_part(copies[0].detach())
    if group is not None:
        dist.broadcast(value, source, group=group)
    for copy in copies[1:]:
        local_part(copy.detach()).copy_(value)


def gradient_norm(
    parameters: Iterable[nn.Parameter], copies: TiedCopies, mesh: DeviceMesh, device: torch.device
) -> Tensor:
    """Of the parameters of all ranks; collective, on all of them; scalar, fp32.

    `copies` tells which parameters another rank counts, the mesh how many hold the same shards.
    """
    squares = torch.zeros((), device=device)
    for parameter in parameters:
        if parameter.grad is not None and copies.owns(parameter):
            squares += _squares(local_part(parameter.grad))
    dist.all_reduce(squares)
    return (squares / size_along(mesh, REPLICATE)).sqrt()


def _squares(gradient: Tensor) -> Tensor:
    """The sum of a gradient's squares in fp32; of a sparse one, of its summed values."""
    values = gradient.coalesce().values() if gradient.is_sparse else gradient
    values = torch.view_as_real(values.resolve_conj()) if values.is_complex() else values
    return torch.linalg.vector_norm(values, dtype=torch.float32) ** 2


def local_part(tensor: Tensor) -> Tensor:
    """What this rank holds of `tensor`."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def sharded_as(parameter: nn.Parameter, local: Tensor) -> Tensor:
    """`local` as this rank's part of a tensor that is placed as `parameter` is."""
    if not isinstance(parameter, DTensor):
        return local
    return DTensor.from_local(
        local,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )

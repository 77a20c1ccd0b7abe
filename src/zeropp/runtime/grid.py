"""All ranks laid out for pipelines: the mesh that a pipeline is given, and who is in which."""

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from zeropp.runtime.agreement import together
from zeropp.runtime.compat import forget_mesh
from zeropp.runtime.mesh import AXES, default_device


def check_world_size(pp_size: int, dp_replicate: int, dp_shard: int, world_size: int) -> None:
    """Raise ValueError unless these sizes make exactly `world_size` ranks."""
    ranks = pp_size * dp_replicate * dp_shard
    if world_size != ranks:
        raise ValueError(
            f"pp_size x dp_replicate x dp_shard = {pp_size} x {dp_replicate} x {dp_shard} = "
            f"{ranks} ranks, but {world_size} are running; change the sizes or the number of "
            "processes"
        )


def make_mesh(
    pp_size: int, dp_replicate: int = 1, dp_shard: int = 1, device: torch.device | None = None
) -> DeviceMesh:
    """A mesh of these sizes over all ranks, with the axes (pp, dp_replicate, dp_shard); collective.

    Args:
        pp_size: P.
        dp_replicate: copies of a shard group.
        dp_shard: ranks of a shard group.
        device: of the kind on which ranks compute; None: that of the process group.

    Raises:
        ValueError: on every rank: the number of ranks is not P x dp_replicate x dp_shard, or one
            was given other sizes.
    """
    sizes = pp_size, dp_replicate, dp_shard
    _choose_gpu()
    together(
        lambda: check_world_size(*sizes, dist.get_world_size()),
        lambda _: dict(zip(("pp_size", *AXES[1:]), sizes, strict=True)),
    )
    kind = (device or default_device()).type
    return init_device_mesh(kind, sizes, mesh_dim_names=AXES)


def _choose_gpu() -> None:
    """With NCCL, the GPU of this rank's place on its host, where none is in use yet: as torch's
    meshes do, but before the first collective, for which all ranks of a host would take the first.
    """
    by_nccl = torch.cuda.is_available() and "nccl" in str(dist.get_backend_config())
    if by_nccl and not torch.cuda.is_initialized():
        place = os.environ.get("LOCAL_RANK", dist.get_rank() % torch.cuda.device_count())
        torch.cuda.set_device(int(place))


def close_mesh(mesh: DeviceMesh, modules: Iterable[nn.Module]) -> None:
    """Destroy the process groups of a mesh of `make_mesh`, all that is on it being `modules`.

    The default group stays, where it serves as an axis of the mesh.
    """
    for group in mesh.get_all_groups() if dist.is_initialized() else ():
        if group != dist.group.WORLD:
            dist.destroy_process_group(group)
    forget_mesh(mesh, modules)


def pipelines(mesh: DeviceMesh) -> list[list[int]]:
    """For every pipeline of the mesh, the global ranks along it."""
    ranks: list[list[int]] = mesh.mesh.flatten(1).t().tolist()
    return ranks

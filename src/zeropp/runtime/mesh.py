"""The device mesh: pipeline ranks on the outside, data-parallel copies and shards inside."""

from collections.abc import Iterable

import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from zeropp.plan import Plan
from zeropp.runtime.compat import forget_mesh

PP, REPLICATE, SHARD = "pp", "dp_replicate", "dp_shard"


def make_mesh(plan: Plan, device_type: str) -> DeviceMesh:
    """A mesh of the plan's sizes with the axes (pp, dp_replicate, dp_shard).

    Raises:
        ValueError: the number of ranks is not P x dp_replicate x dp_shard.
    """
    check_world_size(plan, dist.get_world_size())
    shape = (plan.pp_size, plan.dp_replicate, plan.dp_shard)
    return init_device_mesh(device_type, shape, mesh_dim_names=(PP, REPLICATE, SHARD))


def close_mesh(mesh: DeviceMesh, modules: Iterable[nn.Module]) -> None:
    """Destroy the process groups of a mesh of `make_mesh`, all that is on it being `modules`.

    The default group stays, where it serves as an axis of the mesh.
    """
    for group in mesh.get_all_groups():
        if group != dist.group.WORLD:
            dist.destroy_process_group(group)
    forget_mesh(mesh, modules)


def check_world_size(plan: Plan, world_size: int) -> None:
    """Raise ValueError unless the plan needs exactly `world_size` ranks."""
    if world_size != plan.world_size:
        raise ValueError(
            f"pp_size x dp_replicate x dp_shard = {plan.pp_size} x {plan.dp_replicate} x "
            f"{plan.dp_shard} = {plan.world_size} ranks, but {world_size} are running; "
            "change the sizes or the number of processes"
        )


def data_mesh(mesh: DeviceMesh) -> DeviceMesh:
    """The data-parallel part, as FSDP2 wants it: one axis, or two for HSDP."""
    return mesh[REPLICATE, SHARD] if mesh[REPLICATE].size() > 1 else mesh[SHARD]


def pipelines(mesh: DeviceMesh) -> list[list[int]]:
    """For every pipeline of the mesh, the global ranks along it."""
    ranks: list[list[int]] = mesh.mesh.flatten(1).t().tolist()
    return ranks


def own_pipeline(mesh: DeviceMesh) -> list[int]:
    """The global ranks along this rank's pipeline."""
    ranks: list[int] = mesh[PP].mesh.tolist()
    return ranks


def data_rank(mesh: DeviceMesh) -> int:
    """Which of the D pipelines this rank belongs to, that is which part of the data it sees."""
    return int(mesh[REPLICATE].get_local_rank() * mesh[SHARD].size() + mesh[SHARD].get_local_rank())

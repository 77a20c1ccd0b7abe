"""The device mesh: pipeline ranks on the outside, data-parallel copies and shards inside."""

import secrets
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

T = TypeVar("T")

AXES = PP, REPLICATE, SHARD = "pp", "dp_replicate", "dp_shard"


def default_device(group: dist.ProcessGroup | None = None) -> torch.device:
    """Where a process group's tensors are: the current GPU with NCCL, else the CPU."""
    if torch.cuda.is_available() and "nccl" in str(dist.get_backend_config(group)):
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def greatest(*numbers: int, group: dist.ProcessGroup | None = None) -> list[int]:
    """Each number, the greatest of all ranks'; collective, in a tenth of the time of `gathered`."""
    found = torch.tensor(numbers, device=default_device(group))
    dist.all_reduce(found, dist.ReduceOp.MAX, group)
    return [int(number) for number in found.tolist()]


def gathered(value: T, group: dist.ProcessGroup | None = None) -> list[T]:
    """Every rank's value, by rank in the group; collective, on its ranks; None: the world's."""
    every: list[T | None] = [None] * dist.get_world_size(group)
    dist.all_gather_object(every, value, group)
    return cast("list[T]", every)


def new_name() -> str:
    """Like no other, the same on all ranks; collective."""
    return f"{greatest(secrets.randbits(63))[0] % 2**48:012x}"


_CARRIED = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool),
)


def as_carried(tensor: Tensor) -> Tensor:
    """In a dtype that process groups carry; the same memory, if the values lie there in order."""
    tensor = tensor.detach().resolve_conj().contiguous()
    return tensor if tensor.dtype in _CARRIED else tensor.reshape(-1).view(torch.uint8)


def size_along(mesh: DeviceMesh, axis: str) -> int:
    """Ranks along an axis; a mesh of that axis alone takes a hundred times as long."""
    return mesh.size(AXES.index(axis))


def data_size(mesh: DeviceMesh) -> int:
    """D, ranks that hold the same stages and see different data."""
    return size_along(mesh, REPLICATE) * size_along(mesh, SHARD)


def own_pipeline(mesh: DeviceMesh) -> list[int]:
    """The global ranks along this rank's pipeline."""
    return dist.get_process_group_ranks(mesh.get_group(PP))


def data_rank(mesh: DeviceMesh) -> int:
    """Which of the D pipelines this rank belongs to, that is which part of the data it sees."""
    return mesh.get_local_rank(REPLICATE) * size_along(mesh, SHARD) + mesh.get_local_rank(SHARD)


def check_mesh(mesh: DeviceMesh) -> None:
    """Raise ValueError unless `mesh` has our axes and all ranks of the world."""
    if mesh.mesh_dim_names != AXES or mesh.size() != dist.get_world_size():
        raise ValueError(
            f"mesh: wanted {', '.join(AXES)} of all {dist.get_world_size()} ranks, got "
            f"{mesh.mesh_dim_names} of {mesh.size()}; make it with zeropp.make_mesh"
        )

"""The only use of torch's private names, each with its reason.

FSDP2 reduces gradients from hooks that its own forward and backward fire. A pipeline reduces at a
planned action, from its own sums, possibly after the parameters were resharded and while they are
being gathered for their next use. torch 2.15 made a part of that public, which is used where it
exists; before, the same is done on FSDP2's state objects, as torch's own pipelining does.

torch 2.15's public finalisation cannot start a reduction without FSDP2's hooks, whose forward
gathers the parameters (so `FSDPParamGroup.post_backward` is called here), wants every reduction
waited for before the next of its communication context, and drops an all-gather in flight
(`_gathers_kept` holds it back meanwhile).

Public in torch 2.15, and used: the place of the sums, which is the full parameters' `.grad` in
their `grad_dtype`, and the end of the reductions, HSDP's included.

Process groups are named here. `dist.new_group` wants every rank of the world; with
`use_local_synchronization=True` only the members, but then it names the group by its ranks and by
the number of groups that the calling rank has (`_hash_ranks_to_str`; a later torch: has made).
Neighbours in a pipeline have different numbers, so they would wait for each other under two names;
and a name that comes again after its group's end leads to addresses that are gone.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._autograd import _unsafe_set_version_counter
from torch._C._distributed_c10d import Store as Store  # dist.Store, where there is distributed
from torch._compile import _disable_dynamo
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.distributed_c10d import (
    _get_default_group,
    _get_default_store,
    _get_default_timeout,
    _new_process_group_helper,
    _world,
)
from torch.distributed.fsdp import FSDPModule, fully_shard


class _PublicFinalization:
    """How FSDP2 is given sums to reduce: torch 2.15 and later."""

    def prepare(self, module: Any) -> None:
        """Do once, after the lazy set-up."""
        module.set_manual_backward_finalization(True)

    def give(self, parameter: Any, total: Tensor | None) -> None:
        """Put a sum where FSDP2's `post_backward` looks for it."""
        full = parameter._unsharded_param
        full.grad = None if total is None else total.to(full.grad_dtype or total.dtype)

    def finish(self, module: Any) -> None:
        """Make the current stream wait for all reductions and drop their input buffers."""
        module.finalize_backward()


class _StateFinalization(_PublicFinalization):
    """Before torch 2.15, as in torch's `pipelining/stage.py`, `perform_reduce_grad`."""

    def prepare(self, module: Any) -> None:
        """Nothing to set."""

    def give(self, parameter: Any, total: Tensor | None) -> None:
        # the slot in which FSDP2 itself accumulates over backwards that do not reduce
        parameter.unsharded_accumulated_grad = total

    def finish(self, module: Any) -> None:
        _state(module)._root_post_backward_final_callback()


_PUBLIC = hasattr(FSDPModule, "finalize_backward")
_reduction = _PublicFinalization() if _PUBLIC else _StateFinalization()


def prepare_sharded(module: FSDPModule) -> None:
    """Do FSDP2's lazy set-up now; its hooks, which would do it, never run in a pipeline."""
    _state(module)._lazy_init()
    _reduction.prepare(module)


def unsharded_parameters(module: FSDPModule) -> list[nn.Parameter]:
    """The full parameters that compute sees; the module must have been gathered once."""
    return [p.unsharded_param for group in groups(module) for p in group.fsdp_params]


def reduce_sums(module: FSDPModule, sums: dict[nn.Parameter, Tensor]) -> None:
    """Reduce-scatter `sums`, emptying it, into the sharded parameters' `.grad`, adding to those.

    Works whether or not the module is gathered; a parameter without a sum is left out, on all
    ranks alike, since all run the same program.
    """
    for group in groups(module):
        for parameter in group.fsdp_params:
            _reduction.give(parameter, sums.pop(parameter._unsharded_param, None))
        group.post_backward()


def finish_reductions(module: FSDPModule) -> None:
    """Make the current stream wait for all reductions and drop their input buffers.

    A gather in flight goes on.
    """
    with _gathers_kept(module):
        _reduction.finish(module)


def transforming() -> bool:
    """Whether a transform of `torch.func` is at work, which wants no functions of our own."""
    return torch._C._are_functorch_transforms_active()


# compiled code stops before what it decorates; unlike the public one it loads the compiler late
uncompiled = _disable_dynamo
grouped_mm = torch._grouped_mm  # the function that torch.nn.functional.grouped_mm calls


def is_compiled(module: nn.Module) -> bool:
    """Whether something in it runs compiled: `compile()` in place, or torch.compile's wrapper."""
    return any(m._compiled_call_impl or "_orig_mod" in m._modules for m in module.modules())


def differentiating() -> bool:
    """Whether a backward is running."""
    return torch._C._current_graph_task_id() != -1


def set_version(tensor: Tensor, version: int) -> None:
    """Let what was done to a tensor since not count as a change, for those who saved it."""
    _unsafe_set_version_counter((tensor,), (version,))


def common_store() -> Store:
    """The store by which the ranks met; torch keeps it, but has no public name for it."""
    return _get_default_store()


def new_group(
    ranks: Sequence[int], purpose: str, backend: dist.Backend | None = None
) -> dist.ProcessGroup:
    """A process group of the global ranks `ranks`, this one among them; collective on these alone.

    Members agree on its name by counting, each for itself, what they made of the same ranks for the
    same purpose. The backend is the world's, where no other is given.
    """
    store, me = common_store(), dist.get_rank()
    backend = backend or dist.Backend(dist.get_backend())
    kind = f"zeropp {purpose} {'-'.join(map(str, ranks))}"
    name: Any = f"{kind} #{store.add(f'{kind} on {me}', 1)}"  # torch's type for it is private
    with _world_unbound():
        group, _ = _new_process_group_helper(
            len(ranks),
            ranks.index(me),
            list(ranks),
            backend,
            store,
            name,
            timeout=_get_default_timeout(backend),
        )
    _world.pg_group_ranks[group] = {rank: index for index, rank in enumerate(ranks)}
    return group


def host_group(
    ranks: Sequence[int], purpose: str, device: torch.device
) -> dist.ProcessGroup | None:
    """A new group of the hosts of what is no CPU, if it has ranks; None: there is no need of it."""
    if device.type == "cpu" or not ranks:
        return None
    return new_group([*ranks], purpose, dist.Backend(dist.Backend.GLOO))


def end_group(group: dist.ProcessGroup | None) -> None:
    """Destroy a group, if any; where the world was destroyed before, all its groups were."""
    if group is not None and dist.is_initialized():
        dist.destroy_process_group(group)


def forget_mesh(mesh: DeviceMesh, modules: Iterable[nn.Module]) -> None:
    """Drop what torch keeps of a mesh whose groups are destroyed, and on which `modules` were.

    The mesh and FSDP2's states hold the groups' sockets and threads. DTensor remembers of every
    operation the mesh of its result, and would give it to the results of an equal mesh.
    """
    from torch.distributed.tensor.debug import _clear_sharding_prop_cache  # takes all of inductor

    infos = [g.mesh_info for m in modules if isinstance(m, FSDPModule) for g in groups(m)]
    for info in infos:
        vars(info).update({name: None for name in vars(info) if name.endswith("process_group")})
    getattr(mesh, "_pg_registry", {}).clear()
    _clear_sharding_prop_cache()


@contextmanager
def _world_unbound() -> Iterator[None]:
    """A world bound to a device has its communicator split for every group, by all its ranks."""
    world = _get_default_group()
    device, world.bound_device_id = world.bound_device_id, None
    try:
        yield
    finally:
        world.bound_device_id = device


@contextmanager
def _gathers_kept(module: FSDPModule) -> Iterator[None]:
    kept = groups(module)
    gathers = [group._all_gather_result for group in kept]
    for group in kept:
        group._all_gather_result = None
    try:
        yield
    finally:
        for group, gather in zip(kept, gathers, strict=True):
            group._all_gather_result = gather


def _state(module: FSDPModule) -> Any:
    return fully_shard.state(module)  # type: ignore[attr-defined]


def groups(module: FSDPModule) -> list[Any]:
    """FSDP2's groups of parameters, which are communicated together."""
    return [group for state in _state(module)._state_ctx.all_states for group in groups_of(state)]


def groups_of(state: Any) -> list[Any]:
    """Those of one state."""
    if hasattr(state, "_fsdp_param_groups"):
        return list(state._fsdp_param_groups)
    group = state._fsdp_param_group  # torch 2.11: at most one
    return [] if group is None else [group]

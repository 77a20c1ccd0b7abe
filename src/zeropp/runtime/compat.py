"""The only use of torch's private names, each with its reason.

FSDP2's public interface reduces gradients from autograd hooks at the end of a backward. A pipeline
reduces at a planned action, from its own sums, possibly after the parameters were resharded. torch
2.15 has a public way for that; before, torch's own pipelining reaches into the same state objects
(torch/distributed/pipelining/stage.py, `perform_reduce_grad`).
"""

from typing import Any

from torch import Tensor, nn
from torch._C._distributed_c10d import Store as Store  # dist.Store, where there is distributed
from torch.distributed.distributed_c10d import _get_default_store
from torch.distributed.fsdp import FSDPModule, fully_shard


def prepare_sharded(module: FSDPModule) -> None:
    """Do FSDP2's lazy set-up now; its hooks, which would do it, never run in a pipeline."""
    _state(module)._lazy_init()


def unsharded_parameters(module: FSDPModule) -> list[nn.Parameter]:
    """The full parameters that compute sees; the module must have been gathered once."""
    return [p.unsharded_param for group in _groups(module) for p in group.fsdp_params]


def reduce_sums(module: FSDPModule, sums: dict[nn.Parameter, Tensor]) -> None:
    """Reduce-scatter `sums`, emptying it, into the sharded parameters' `.grad`, adding to those.

    Works whether or not the module is gathered; a parameter without a sum is left out, on all
    ranks alike, since all run the same program.
    """
    for group in _groups(module):
        for parameter in group.fsdp_params:
            # the slot in which FSDP2 itself accumulates over backwards that do not reduce
            parameter.unsharded_accumulated_grad = sums.pop(parameter._unsharded_param, None)
        group.post_backward()


def finish_reductions(module: FSDPModule) -> None:
    """Make the current stream wait for all reductions and drop their input buffers."""
    _state(module)._root_post_backward_final_callback()


def common_store() -> Store:
    """The store by which the ranks met; torch keeps it, but has no public name for it."""
    return _get_default_store()


def _state(module: FSDPModule) -> Any:
    return fully_shard.state(module)  # type: ignore[attr-defined]


def _groups(module: FSDPModule) -> list[Any]:
    return [
        group
        for state in _state(module)._state_ctx.all_states
        for group in state._fsdp_param_groups
    ]

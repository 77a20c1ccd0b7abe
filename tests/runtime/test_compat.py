"""What the pipeline needs of FSDP2, asked of the installed torch: nothing but `compat` between."""

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from support.exactness import whole
from support.ranks import run_ranks
from zeropp.runtime import compat

SHAPE = (6, 5)  # four ranks do not divide it
MESHES = {"sharded": (4,), "hsdp": (2, 2)}


def sharded(dims: tuple[int, ...], param_dtype: torch.dtype | None) -> FSDPModule:
    """A layer, sharded as `zeropp.runtime.shard` does, over one axis or two (HSDP)."""
    torch.manual_seed(3)
    layer = nn.Linear(*SHAPE[::-1])
    mesh = init_device_mesh("cpu", dims, mesh_dim_names=("replicate", "shard")[-len(dims) :])
    policy = MixedPrecisionPolicy(param_dtype=param_dtype, reduce_dtype=torch.float32)
    module = fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    module.set_gradient_divide_factor(1.0)
    module.set_force_sum_reduction_for_comms(True)
    module.set_reshard_after_backward(False)
    compat.prepare_sharded(module)
    return module


def gradients(module: FSDPModule) -> dict[str, Tensor]:
    found = {}
    for name, parameter in module.named_parameters():
        assert isinstance(parameter.grad, DTensor), f"{name} has no sharded gradient"
        found[name] = whole(parameter.grad)
    return found


def sums(module: FSDPModule, value: float) -> dict[nn.Parameter, Tensor]:
    full = compat.unsharded_parameters(module)
    return {p: torch.full_like(p, value, dtype=torch.float32) for p in full}


def sum_after_reshard(dims: tuple[int, ...], dtype: torch.dtype | None) -> list[dict[str, float]]:
    """Reduce three times in one step, and two steps; smallest and largest of each gradient."""
    module = sharded(dims, dtype)
    seen = []
    for step in (1, 2):
        module.unshard()
        given = [sums(module, 1.0 * step), sums(module, 10.0 * step), sums(module, 100.0 * step)]
        compat.reduce_sums(module, given[0])  # gathered
        module.reshard()
        compat.reduce_sums(module, given[1])  # its W ran after the reshard
        compat.reduce_sums(module, given[2])
        compat.finish_reductions(module)
        seen.append({n: g.unique().tolist() for n, g in gradients(module).items()})
        for parameter in module.parameters():
            parameter.grad = None
    return seen


def finish_while_gathering(dims: tuple[int, ...]) -> tuple[bool, bool]:
    """Whether parameters that were gathered across a finish, and the gradients, are right."""
    module = sharded(dims, None)
    module.unshard()
    total = sums(module, 1.0)
    wanted = [p.detach().clone() for p in module.parameters()]
    module.reshard()
    handle = module.unshard(async_op=True)
    compat.reduce_sums(module, total)
    compat.finish_reductions(module)
    handle.wait()
    got = list(module.parameters())
    gathered = all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
    module.reshard()
    return gathered, all((g == 4.0).all() for g in gradients(module).values())


def leave_one_out() -> list[bool]:
    """Which parameters have a gradient if one has no sum."""
    module = sharded((4,), None)
    module.unshard()
    total = sums(module, 1.0)
    total.popitem()
    compat.reduce_sums(module, total)
    assert not total
    compat.finish_reductions(module)
    module.reshard()
    return [p.grad is not None for p in module.parameters()]


def everything() -> dict[str, Any]:
    """What one set of processes finds."""
    found: dict[str, Any] = {"left out": leave_one_out()}
    for name, dims in MESHES.items():
        found[f"gather {name}"] = finish_while_gathering(dims)
        for dtype in (None, torch.bfloat16):
            found[f"sums {name} {dtype}"] = sum_after_reshard(dims, dtype)
    return found


@cache
def by_rank() -> list[dict[str, Any]]:
    return run_ranks(4, everything)


def on_all_ranks(name: str) -> list[Any]:
    return [found[name] for found in by_rank()]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mesh", MESHES)
def test_reductions_of_a_step_add_up(mesh: str, dtype: torch.dtype | None) -> None:
    for steps in on_all_ranks(f"sums {mesh} {dtype}"):
        for step, found in enumerate(steps, 1):
            assert found == {"weight": [444.0 * step], "bias": [444.0 * step]}


@pytest.mark.parametrize("mesh", MESHES)
def test_a_gather_in_flight_survives_the_end_of_reductions(mesh: str) -> None:
    assert on_all_ranks(f"gather {mesh}") == [(True, True)] * 4


def test_a_parameter_without_a_sum_is_left_out() -> None:
    assert on_all_ranks("left out") == [[True, False]] * 4

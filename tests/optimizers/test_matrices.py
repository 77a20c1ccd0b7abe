"""Optimizers of whole matrices, sharded or not, make plain PyTorch's parameters."""

from collections.abc import Iterable
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor

import zeropp
from support.exactness import Plain, relative_error, whole
from support.features import Batch, even, gpt, loss_sum
from support.ranks import run_ranks
from zeropp.plan import Plan
from zeropp.runtime.mesh import data_rank, data_size

B, STEPS = 4, 3
SHAPES = ((16, 16), (32, 16), (16, 32), (5, 16), (1, 16), (3, 4))  # uneven, and fewer than ranks


class Muon(zeropp.WholeMatrices, torch.optim.Muon):
    pass


# in bf16, in which Muon multiplies, a gradient that differs in its last bit may round to a
# neighbour, which orthogonalising a nearly singular matrix magnifies: plain PyTorch differs from
# itself by 9e-3 here when it sums the micro-batches one by one
LR, TOLERANCES = 0.02, {"bf16": 2e-2, "fp32": 1e-5}


def divided(named: Iterable[tuple[str, nn.Parameter]]) -> tuple[list[Any], list[Any]]:
    """Matrices of the layers, and the rest, each once, as groups, of which a rank may have none."""
    matrices, rest = {}, {}
    for name, p in named:
        inner = p.ndim == 2 and not name.startswith(("0.", "7."))
        (matrices if inner else rest)[p] = None
    return [{"params": list(matrices)}], [{"params": list(rest)}]


def optimizers(
    named: Iterable[tuple[str, nn.Parameter]], kind: type[torch.optim.Muon]
) -> list[torch.optim.Optimizer]:
    matrices, rest = divided(named)
    return [kind(matrices, lr=LR), torch.optim.AdamW(rest, lr=1e-2, eps=1e-4)]


def batches(step: int, ranks: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(step)
    return [even(B, generator) for _ in range(ranks)]


def plainly_trained(ranks: int) -> dict[str, Tensor]:
    torch.manual_seed(3)
    plain = Plain(gpt(tied=True))
    both = optimizers(plain.parameters().items(), torch.optim.Muon)
    for step in range(STEPS):
        joined = [pair for batch in batches(step, ranks) for pair in batch]
        plain.losses(joined, {})[0].backward()
        for optimizer in both:
            optimizer.step()
            optimizer.zero_grad()
    return {name: p.detach() for name, p in plain.parameters().items()}


def error(plan: Plan) -> float:
    """The worst of any parameter of this rank."""
    torch.manual_seed(3)
    pipe = zeropp.pipeline(gpt(tied=True), loss_sum, plan)
    both = optimizers(pipe.named_parameters(), Muon)
    for step in range(STEPS):
        pipe.step(batches(step, data_size(pipe.mesh))[data_rank(pipe.mesh)])
        for optimizer in both:
            optimizer.step()
            optimizer.zero_grad()
    wanted = plainly_trained(data_size(pipe.mesh))
    found = [relative_error(whole(p), wanted[name]) for name, p in pipe.named_parameters()]
    pipe.close()
    return max(found)


def errors(pp: int, dp: int) -> dict[tuple[str, str], float]:
    """By schedule, with Muon's products in bf16 and in fp32."""
    found = {}
    for name in ("zeropp", "zb-v"):
        plan = Plan(pp, 2, B, name, dp_shard=dp)
        found[name, "bf16"] = error(plan)
        with patch.object(torch.Tensor, "bfloat16", torch.Tensor.float):
            found[name, "fp32"] = error(plan)
    return found


@pytest.mark.parametrize(
    ("pp", "dp"),
    [*((1, 1), (2, 1), (4, 1), (1, 2), (2, 2)), pytest.param(4, 2, marks=pytest.mark.nightly)],
)
def test_parameters_are_those_of_plain_pytorch(pp: int, dp: int) -> None:
    for found in run_ranks(pp * dp, errors, pp, dp):
        assert len(found) == 4
        assert {case: e for case, e in found.items() if not e < TOLERANCES[case[1]]} == {}


def same_bits(copies: int, shards: int) -> list[bool]:
    """Whether steps with the same gradients make the same parameters, each shape alone."""
    mesh = init_device_mesh("cpu", (copies, shards), mesh_dim_names=("copies", "shards"))
    torch.manual_seed(0)
    module = nn.ParameterList(nn.Parameter(torch.randn(shape)) for shape in SHAPES)
    plain = [nn.Parameter(p.detach().clone()) for p in module]
    fully_shard(module, mesh=mesh if copies > 1 else mesh["shards"])
    sharded: list[Any] = list(module)
    both = torch.optim.Muon(plain, lr=LR), Muon(sharded, lr=LR)
    for _ in range(STEPS):
        for p, q in zip(plain, sharded, strict=True):
            p.grad = torch.randn(p.shape)
            q.grad = distribute_tensor(p.grad, q.device_mesh, q.placements)
        for optimizer in both:
            optimizer.step()
    states = [both[1].state[q]["momentum_buffer"] for q in sharded]
    assert all(
        s.to_local().shape == q.to_local().shape for s, q in zip(states, sharded, strict=True)
    )
    assert both[1].param_groups[0]["params"] == sharded
    return [torch.equal(whole(q), p.detach()) for p, q in zip(plain, sharded, strict=True)]


@pytest.mark.parametrize(("copies", "shards"), [(1, 2), (1, 4), (2, 2)])
def test_of_the_same_gradients_not_a_bit_differs(copies: int, shards: int) -> None:
    for same in run_ranks(copies * shards, same_bits, copies, shards):
        assert same == [True] * len(SHAPES)

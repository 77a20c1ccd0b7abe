"""bf16 compute with fp32 sums: the error does not grow with the number of units."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy

from support.exactness import Plain, gradient_errors, relative_error, whole
from support.features import even, gpt, loss_sum
from support.ranks import run_ranks
from zeropp.build import pipeline
from zeropp.plan import Plan
from zeropp.runtime.mesh import data_rank

B = 12
UNITS = (1, 3, 12)


def blocks_in(dtype: torch.dtype) -> list[nn.Module]:
    torch.manual_seed(0)
    return [block.to(dtype) for block in gpt()]


def gradients_of(pp: int, dp: int, dtype: torch.dtype) -> dict[str, dict[str, float]]:
    """For every unit size, errors of this rank's gradients: against fp32, and against one unit."""
    batch = [even(B, torch.Generator().manual_seed(rank)) for rank in range(dp)]
    plain = Plain([block.float() for block in copy.deepcopy(blocks_in(dtype))])
    loss, _ = plain.losses([pair for part in batch for pair in part], {})
    loss.backward()
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    found: dict[int, dict[str, Tensor]] = {}
    for unit in UNITS:
        plan = Plan(pp, 2, B, unit_size=unit, dp_shard=dp, max_resident=1)
        pipe = pipeline(blocks_in(dtype), loss_sum, plan, precision=policy)
        pipe.step(batch[data_rank(pipe.mesh)])
        found[unit] = {name: whole(p.grad) for name, p in pipe.named_parameters()}
        pipe.close()
    exact = {name: p.grad for name, p in plain.parameters().items()}
    one_unit = found[B]
    return {
        "fp32": {str(unit): _worst(grads, exact) for unit, grads in found.items()},
        "one unit": {str(unit): _worst(grads, one_unit) for unit, grads in found.items()},
    }


def _worst(grads: dict[str, Tensor], reference: dict[str, Tensor]) -> float:
    return max(relative_error(gradient, reference[name]) for name, gradient in grads.items())


def under_autocast(pp: int, chunks: int) -> dict[str, float]:
    """Errors of a step inside of an autocast, against plain PyTorch inside of one."""
    batch = even(B, torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    plain = Plain(gpt())
    torch.manual_seed(0)
    pipe = pipeline(gpt(), loss_sum, Plan(pp, chunks, B, unit_size=3))
    total = torch.zeros(())
    for pair in batch:
        with torch.autocast("cpu", torch.bfloat16):
            loss = plain.losses([pair], {})[0] / B
        loss.backward()
        total += loss.detach()
    with torch.autocast("cpu", torch.bfloat16):
        out = pipe.step(batch)
    errors = gradient_errors(plain, pipe) | {"loss": relative_error(out.loss, total)}
    pipe.close()
    return errors


@pytest.mark.parametrize(("pp", "chunks"), [(1, 2), (2, 1), (2, 2), (4, 1)])
def test_a_step_inside_of_an_autocast(pp: int, chunks: int) -> None:
    for errors in run_ranks(pp, under_autocast, pp, chunks):
        assert max(errors.values()) < 5e-3


@pytest.mark.parametrize(("pp", "dp"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_fp32_parameters_sum_all_units_in_fp32(pp: int, dp: int) -> None:
    for errors in run_ranks(pp * dp, gradients_of, pp, dp, torch.float32):
        assert max(errors["fp32"].values()) < 3e-2  # bf16 compute
        assert max(errors["one unit"].values()) < 1e-5  # whatever the units


@pytest.mark.parametrize(("pp", "dp"), [(1, 1), (2, 2)])
def test_bf16_parameters_add_one_rounding_whatever_the_units(pp: int, dp: int) -> None:
    """FSDP2 rounds every reduced shard to the parameter's dtype; their sum is fp32."""
    rounding = torch.finfo(torch.bfloat16).eps / 2
    for errors in run_ranks(pp * dp, gradients_of, pp, dp, torch.bfloat16):
        assert max(errors["fp32"].values()) < 3e-2
        assert max(errors["one unit"].values()) < 2 * rounding
        assert errors["fp32"]["1"] < errors["fp32"]["12"] + rounding

"""On GPUs, with NCCL: `pytest -m gpu`. At most four ranks, one for each device.

`RANKS_A_GPU=4 pytest -m gpu` puts four on each, which talk through sockets, as hosts do.
"""

import copy
import os

import pytest
import torch
from torch.distributed.fsdp import MixedPrecisionPolicy

from support.exactness import GRIDS, Case, Plain, errors_of, gradient_errors, relative_error
from support.features import Batch, even, gpt, loss_sum
from support.ranks import run_ranks
from zeropp.build import pipeline
from zeropp.measure.trace import Trace
from zeropp.plan import Plan
from zeropp.runtime.grid import make_mesh, pipelines
from zeropp.runtime.mesh import data_rank, data_size
from zeropp.runtime.pipeline import Pipeline

pytestmark = pytest.mark.gpu
B = 4


def plans() -> list[Plan]:
    """What fits the devices that are here."""
    devices = torch.cuda.device_count() * int(os.environ.get("RANKS_A_GPU", "1"))
    assert devices, "there is no CUDA device"
    every = [
        Plan(1, 2, B, unit_size=2),
        Plan(2, 2, B, unit_size=2),
        Plan(1, 2, B, unit_size=2, dp_shard=2, max_resident=1),
        Plan(2, 2, B, unit_size=2, dp_shard=2, max_resident=1),
    ]
    return [plan for plan in every if plan.world_size <= devices]


def batch_of(pipe: Pipeline) -> tuple[Batch, Batch]:
    """Every data rank's micro-batches, and this one's, on its device."""
    parts = [even(B, torch.Generator().manual_seed(d)) for d in range(data_size(pipe.mesh))]
    own = [(x.to(pipe.device), y.to(pipe.device)) for x, y in parts[data_rank(pipe.mesh)]]
    return [pair for part in parts for pair in part], own


def step_errors(plan: Plan, low: bool) -> dict[str, float]:
    """Of one step in fp32, or with bf16 compute."""
    torch.manual_seed(1)
    blocks = gpt(tied=True)
    plain = Plain(copy.deepcopy(blocks))
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if low else None
    pipe = pipeline(blocks, loss_sum, plan, precision=policy)
    everything, own = batch_of(pipe)
    loss, _ = plain.losses(everything, {})
    loss.backward()
    out = pipe.step(own)
    errors = gradient_errors(plain, pipe)
    errors["loss"] = relative_error(out.loss.cpu(), loss.detach())
    pipe.close()
    return errors


@pytest.mark.parametrize(("low", "tolerance"), [(False, 1e-4), (True, 3e-2)])
def test_gradients_equal_those_of_the_cpu(low: bool, tolerance: float) -> None:
    for plan in plans():
        for errors in run_ranks(plan.world_size, step_errors, plan, low, backend="nccl"):
            assert max(errors.values()) < tolerance


def feature_errors(plan: Plan) -> dict[str, str | dict[str, float]]:
    """Of every feature, those that are above what is allowed, or what was raised."""
    torch.backends.cudnn.allow_tf32 = False
    found: dict[str, str | dict[str, float]] = {}
    mesh = make_mesh(plan.pp_size, plan.dp_replicate, plan.dp_shard)
    for feature in dict.fromkeys(case.feature for case in GRIDS["features"]):
        try:
            errors = errors_of(Case(feature, plan), mesh)
            above = {name: e for name, e in errors.items() if not e <= 10 * feature.tolerance}
            if above:
                found[feature.name] = above
        except Exception as error:
            found[feature.name] = f"{type(error).__name__}: {error}"
    return found


def test_every_feature_equals_plain_pytorch_on_the_cpu() -> None:
    for plan in plans():
        for found in run_ranks(plan.world_size, feature_errors, plan, backend="nccl", timeout=250):
            assert found == {}, plan


def steps_without_waiting(plan: Plan) -> float:
    """Steps in which any wait of the host for the device is an error."""
    torch.manual_seed(1)
    pipe = pipeline(gpt(), loss_sum, plan)
    _, own = batch_of(pipe)
    pipe.step(own)
    torch.cuda.set_sync_debug_mode("error")
    out = pipe.step(own)
    pipe.clip_grad_norm_(1.0)
    torch.cuda.set_sync_debug_mode("default")
    pipe.close()
    return float(out.loss)


def test_a_step_never_waits_for_the_device() -> None:
    for plan in plans():
        losses = run_ranks(plan.world_size, steps_without_waiting, plan, backend="nccl")
        assert max(losses) - min(losses) < 1e-6


def traced(plan: Plan) -> tuple[float, float]:
    """Makespan, and spans with idle time of the first rank, in ms."""
    pipe = pipeline(gpt(), loss_sum, plan)
    _, own = batch_of(pipe)
    pipe.step(own)
    trace = Trace(pipe.device)
    pipe.step(own, observer=trace)
    found = trace.gather(pipe.placement, "measured", pipelines(pipe.mesh)[0])
    pipe.close()
    return found.timeline.makespan, found.timeline.busy(0) + sum(found.idle[0].values())


def test_events_measure_a_step() -> None:
    for plan in plans():
        makespan, total = run_ranks(plan.world_size, traced, plan, backend="nccl")[0]
        assert makespan > 0
        assert total == pytest.approx(makespan, rel=1e-3)

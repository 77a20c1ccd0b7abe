"""`ScheduleZeroPP` over torch's stages: losses and gradients are plain PyTorch's, and torch's."""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed import pipelining
from torch.distributed._composable.replicate_with_fsdp import replicate
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.pipelining import PipelineStage, ScheduleInterleaved1F1B
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

from support.exactness import relative_error
from support.ranks import run_ranks
from support.torch_stages import (
    Staged,
    batch,
    data_rank,
    errors_of,
    gradients,
    loss_mean,
    mesh_of,
    plain,
)
from zeropp import AuxiliaryLoss
from zeropp.generate import generate
from zeropp.ir import Order, format_program
from zeropp.program import forward_only_program, lower
from zeropp.torch import ScheduleZeroPP
from zeropp.torch.text import format_csv

STRICT, DRAIN = {"unit_size": 2, "seam": "strict"}, {"unit_size": 2, "seam": "drain"}
VEE = {"schedule": "zb-v"}
TWO = [
    Staged(2, 1, 4, STRICT),
    Staged(2, 1, 4, {"schedule": "1f1b"}),
    Staged(2, 2, 4, STRICT),
    Staged(2, 2, 5, DRAIN, recompute=True),
    Staged(2, 2, 4, VEE, vee=True, recompute=True),
    Staged(2, 4, 4, STRICT, recompute=True),
    Staged(2, 4, 4, DRAIN),
]
FOUR = [
    Staged(2, 2, 4, STRICT, 2),
    Staged(2, 2, 4, DRAIN | {"shard": "unit", "max_resident": 1}, 2, recompute=True),
    Staged(2, 2, 4, STRICT | {"shard": "unit"}, 2),
    Staged(2, 2, 4, {"schedule": "interleaved-1f1b", "shard": "microbatch"}, 2),
    Staged(2, 2, 4, VEE | {"shard": "unit", "max_resident": 1}, 2, vee=True),
    Staged(2, 4, 4, STRICT | {"shard": "unit", "max_resident": 1}, 2),
    Staged(2, 1, 4, STRICT | {"shard": "unit"}, 2, recompute=True),
    Staged(4, 2, 4, STRICT),
]
ALLOWED = 1e-5


def measure(cases: list[Staged]) -> dict[str, dict[str, float]]:
    """On this rank, by case."""
    found = {}
    for case in cases:
        mesh = mesh_of(case.P, case.D)
        stages = case.stages(mesh)
        try:
            schedule = ScheduleZeroPP(stages, case.B, loss_mean, **case.options)
            found[str(case)] = errors_of(case, schedule, stages, data_rank(mesh))
            if (
                not case.vee
                and case.V > 1
                and case.B % case.P == 0
                and not case.options.get("shard")
            ):
                theirs = case.stages(mesh)
                torchs = ScheduleInterleaved1F1B(theirs, case.B, loss_mean)
                found[f"torch {case}"] = errors_of(case, torchs, theirs, data_rank(mesh), 2)
        except Exception as error:
            raise RuntimeError(str(case)) from error
    return found


@pytest.mark.parametrize("cases", [TWO, FOUR], ids=["two ranks", "four ranks"])
def test_losses_and_gradients_are_plain_pytorchs(cases: list[Staged]) -> None:
    ranks = cases[0].P * cases[0].D
    for found in run_ranks(ranks, measure, cases, timeout=200):
        assert len(found) > len(cases)
        for case, errors in found.items():
            assert len(errors) > 3 * 4
            assert max(errors.values()) < ALLOWED, (case, errors)


def low_precision() -> tuple[float, float]:
    """Worst errors of stages that compute in bf16 and reduce in fp32: ours, after every unit, and
    torch's own."""
    case = Staged(2, 2, 4, {"unit_size": 2, "shard": "unit"}, 2, low=True)
    mesh, worst = mesh_of(2, 2), []
    for make, options in ((ScheduleZeroPP, case.options), (ScheduleInterleaved1F1B, {})):
        stages = case.stages(mesh)
        schedule = make(stages, case.B, loss_mean, **options)
        worst.append(max(errors_of(case, schedule, stages, data_rank(mesh), 2).values()))
    return worst[0], worst[1]


def test_sums_are_kept_in_the_dtype_of_the_reduction() -> None:
    for ours, theirs in run_ranks(4, low_precision):
        assert theirs > 1e-3
        assert ours < 1.1 * theirs


def by_files(folder: Path) -> dict[str, float]:
    """Of orders from files, of several schedules over the same stages, one of them torch's."""
    case = Staged(2, 2, 4)
    stages, found = case.stages(mesh_of(2, 1)), {}
    for path in sorted(folder.iterdir()):
        schedule = ScheduleZeroPP(stages, 4, loss_mean, program=path)
        found |= errors_of(case, schedule, stages, 0)
    summed = ScheduleZeroPP(stages, 4, lambda *pair: loss_mean(*pair) / 4, scale_grads=False)
    found |= errors_of(case, ScheduleInterleaved1F1B(stages, 4, loss_mean), stages, 0, 2)
    errors = errors_of(case, summed, stages, 0)
    return found | {name: error for name, error in errors.items() if "loss" not in name}


def test_orders_come_from_files(tmp_path: Path) -> None:
    schedule = generate(Order("zeropp", 2, "drain"), 2, 2, 4)
    (tmp_path / "a.csv").write_text(format_csv(schedule))
    (tmp_path / "b.txt").write_text(format_program(lower(schedule, "unit")))
    for errors in run_ranks(2, by_files, tmp_path):
        assert max(errors.values()) < ALLOWED


def frozen() -> dict[str, float]:
    """Of pipelines of which one stage is not trained: the first, one between, the last."""
    found = {}
    for frozen_stage in (0, 1, 3):
        stages = Staged(2, 2, 4).stages(mesh_of(2, 1))
        for stage in stages:
            stage.submod.requires_grad_(stage.stage_index != frozen_stage)
        schedule = ScheduleZeroPP(stages, 4, loss_mean, **STRICT)
        for step, (_, wanted) in enumerate(plain(4, 1)[:2]):
            inputs, targets = batch(4, step, 0)
            given = [inputs] if any(stage.is_first for stage in stages) else []
            last = any(stage.is_last for stage in stages)
            for stage in stages:
                stage.submod.zero_grad()
            schedule.step(*given, target=targets if last else None)
            for name, parameter in gradients([stage.submod for stage in stages]):
                if parameter.requires_grad:
                    error = relative_error(parameter.grad, wanted[name])
                    found[f"{frozen_stage}: {name} {step}"] = error
                else:
                    assert parameter.grad is None, name
    return found


def test_a_stage_may_be_frozen() -> None:
    for errors in run_ranks(2, frozen):
        assert max(errors.values()) < ALLOWED


def test_an_older_torch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelining.schedules, "_ComputationType", SimpleNamespace())
    monkeypatch.delitem(sys.modules, "zeropp.torch.compat")
    with pytest.raises(ImportError, match=r"zeropp.torch needs torch 2.13 or later; this is"):
        import_module("zeropp.torch.compat")


@pytest.mark.skipif(find_spec("torchtitan") is not None, reason="torchtitan is installed")
def test_what_torchtitan_needs_is_said() -> None:
    with pytest.raises(ImportError, match=r"zeropp.torchtitan needs torchtitan 0.3; pip install"):
        import_module("zeropp.torchtitan")


def stage(module: nn.Module, index: int, num_stages: int = 4, **more: Any) -> PipelineStage:
    return PipelineStage(module, index, num_stages, torch.device("cpu"), **more)


def ddp(rank: int) -> nn.Module:
    return DistributedDataParallel(nn.Linear(4, 4))


def replicated(rank: int) -> nn.Module:
    module = nn.Linear(4, 4)
    replicate(module, mesh=init_device_mesh("cpu", (2,)))
    return module


def tensor_parallel(rank: int) -> nn.Module:
    mesh = init_device_mesh("cpu", (2,))
    return parallelize_module(nn.Sequential(nn.Linear(4, 4)), mesh, {"0": ColwiseParallel()})


def compiled(rank: int) -> nn.Module:
    module = nn.Sequential(nn.Linear(4, 4))
    module[0].compile()
    return module


def hooked(rank: int) -> nn.Module:
    module = nn.Linear(4, 4)
    if rank == 1:
        module.weight.register_post_accumulate_grad_hook(lambda parameter: None)
    return module


def auxiliary(rank: int) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), AuxiliaryLoss())


MODULES = {
    "ddp": (ddp, "DistributedDataParallel and replicate reduce after a backward"),
    "replicate": (replicated, "DistributedDataParallel and replicate reduce after a backward"),
    "dtensor": (tensor_parallel, "stage 0: parameter 0.weight is a DTensor"),
    "compiled": (compiled, "something in it is compiled, and the split would stop it"),
    "hook": (hooked, "rank 1: parameter .weight has a hook"),
    "auxiliary": (auxiliary, "1 is an AuxiliaryLoss, for which torch's pipelining has no place"),
}
CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "name": ({"schedule": "nonsense"}, "unknown schedule 'nonsense'"),
    "unit": ({"unit_size": 9}, "unit_size"),
    "vee": ({"schedule": "zb-v"}, "zb-v lays them as a vee, here the stages 0 3, got 0 2"),
    "batch": ({"program": "p.txt", "n_microbatches": 6}, "n_microbatches: the program has 4, got"),
    "both": ({"program": "p.txt", "unit_size": 2}, "program: it says its own order"),
    "shard": ({"program": "p.txt", "shard": "unit"}, "shard: the program says its own (unit)"),
    "policy": ({"shard": "often"}, "shard must be one of unit, step, microbatch"),
    "file": ({"program": "none.txt"}, "program: cannot read none.txt"),
    "ranks": ({"program": "wide.txt"}, "zeropp has 4 over 4 ranks, got 4 over 2; every rank"),
    "forward": ({"program": "forward.txt"}, "program: it is forward only"),
}


def refusals(folder: Path) -> dict[str, str]:
    """What every bad call says on this rank."""
    rank = torch.distributed.get_rank()
    found = {}

    def tried(name: str, stages: list[PipelineStage], **options: Any) -> None:
        number = options.pop("n_microbatches", 4)
        try:
            ScheduleZeroPP(stages, number, loss_mean, **options)
        except ValueError as error:
            found[name] = str(error)

    plain = [stage(nn.Linear(4, 4), rank), stage(nn.Linear(4, 4), rank + 2)]
    for name, (options, _) in CALLS.items():
        if "program" in options:
            options = options | {"program": folder / options["program"]}
        tried(name, plain, **options)
    tried("different", plain, unit_size=1 + rank)
    for name, (make, _) in MODULES.items():
        tried(name, [stage(make(rank), rank, 2)])
    tried("own", [stage(nn.Linear(4, 4), rank, 2, dw_builder=lambda: lambda: None)])
    return found


def test_what_cannot_run_is_said_on_every_rank(tmp_path: Path) -> None:
    program = lower(generate(Order("zeropp", 2), 2, 2, 4), "unit")
    (tmp_path / "p.txt").write_text(format_program(program))
    (tmp_path / "wide.txt").write_text(format_program(lower(generate(Order(), 4, 1, 4))))
    (tmp_path / "forward.txt").write_text(format_program(forward_only_program(program, 4)))
    told, same = run_ranks(2, refusals, tmp_path)
    own = {"different", "own"}
    assert told.keys() == CALLS.keys() | MODULES.keys() | own
    by_rank = {"vee", *MODULES} - {"hook"}
    assert all(told[name] == same[name] for name in told.keys() - by_rank)
    for name, (_, words) in (CALLS | MODULES).items():
        assert words in told[name].replace(f"{tmp_path}/", ""), name
    assert told["different"] == "program: ranks [1] were given another than rank 0"
    assert "stage 0: it has a dw_builder of its own, in whose place" in told["own"]

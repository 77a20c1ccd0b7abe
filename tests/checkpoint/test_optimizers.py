"""Checkpoints of several optimizers, read in other layouts."""

import re
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

import zeropp
from support.exactness import relative_error, whole
from support.features import even, gpt, loss_sum
from support.ranks import run_ranks
from zeropp import checkpoint
from zeropp.plan import Plan
from zeropp.runtime.mesh import data_rank, data_size
from zeropp.runtime.pipeline import Pipeline

B = 4
PLANS = (Plan(2, 2, B, "zb-v"), Plan(1, 2, B, dp_shard=2), Plan(4, 2, B, "zb-v"))
Optimizers = list[torch.optim.Optimizer]


# Muon's products in fp32: in bf16 a gradient's last bit may make a visible difference
EXACTLY = patch.object(torch.Tensor, "bfloat16", torch.Tensor.float)


class Muon(zeropp.WholeMatrices, torch.optim.Muon):
    pass


def made(plan: Plan) -> tuple[Pipeline, list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    """The pipeline, matrices of the layers, and all other parameters; a rank may have no matrix."""
    torch.manual_seed(3)
    pipe = zeropp.pipeline(gpt(tied=True), loss_sum, plan)
    inner = {
        p: None
        for name, p in pipe.named_parameters()
        if p.ndim == 2 and not name.startswith(("0.", "7."))
    }
    return pipe, list(inner), [p for p in pipe.parameters() if p not in inner]


def both(matrices: list[Any], rest: list[Any], lr: float = 0.02) -> Optimizers:
    return [
        Muon([{"params": matrices}], lr=lr),
        torch.optim.AdamW([{"params": rest}], lr=lr / 2, eps=1e-4),
    ]


def train(pipe: Pipeline, optimizers: Optimizers, steps: range) -> None:
    rank, ranks = data_rank(pipe.mesh), data_size(pipe.mesh)
    for step in steps:
        batch = even(B, torch.Generator().manual_seed(step))
        pipe.step([(x.chunk(ranks)[rank], y.chunk(ranks)[rank]) for x, y in batch])
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


@EXACTLY
def write(plan: Plan, folder: Path) -> None:
    pipe, matrices, rest = made(plan)
    optimizers = both(matrices, rest)
    train(pipe, optimizers, range(2))
    checkpoint.save(folder / str(PLANS.index(plan)), pipe, optimizers, 2)
    pipe.close()


@EXACTLY
def differences(plan: Plan, folder: Path) -> list[float]:
    """Of each checkpoint, after two more steps, from a run that was never interrupted."""
    pipe, *parameters = made(plan)
    train(pipe, both(*parameters), range(4))
    wanted = {name: whole(p) for name, p in pipe.named_parameters()}
    pipe.close()
    worst = []
    for index in range(len(PLANS)):
        pipe, *parameters = made(plan)
        optimizers = both(*parameters, lr=9.0)  # the rates, too, come from the checkpoint
        train(pipe, optimizers, range(checkpoint.load(folder / str(index), pipe, optimizers), 4))
        found = {name: whole(p) for name, p in pipe.named_parameters()}
        worst.append(max(relative_error(found[name], wanted[name]) for name in wanted))
        pipe.close()
    return worst


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a checkpoint of every plan."""
    path = tmp_path_factory.mktemp("checkpoints")
    for plan in PLANS:
        run_ranks(plan.world_size, write, plan, path)
    return path


@pytest.mark.parametrize("plan", PLANS, ids=lambda p: f"{p.schedule}-P{p.pp_size}-D{p.dp_size}")
def test_training_goes_on_as_if_never_interrupted(plan: Plan, folder: Path) -> None:
    for worst in run_ranks(plan.world_size, differences, plan, folder):
        assert worst[PLANS.index(plan)] == 0
        assert max(worst) < 1e-5


def refusal(function: Any, *args: Any) -> str:
    with pytest.raises(ValueError, match="optimizers: ") as refused:
        function(*args)
    return str(refused.value)


def refusals(folder: Path) -> list[str]:
    """What is said of optimizers that overlap (on one rank), of too few, and of other ones."""
    pipe, matrices, rest = made(PLANS[0])
    saved, new = folder / "0", folder / "new"
    every: Any = list(pipe.parameters())
    overlapping = both(matrices, every if pipe.rank == 1 else rest)
    one = torch.optim.AdamW(every)
    said = [
        refusal(checkpoint.save, new, pipe, overlapping, 0),
        refusal(checkpoint.load, saved, pipe, both(matrices, rest)[:1]),
        refusal(checkpoint.load, saved, pipe, one),
    ]
    train(pipe, [one], range(1))
    checkpoint.save(new, pipe, one, 1)
    said.append(refusal(checkpoint.load, new, pipe, both(matrices, rest)))
    halves = [torch.optim.AdamW(every[:3], lr=9.0), torch.optim.AdamW(every[3:], lr=9.0)]
    assert checkpoint.load(new, pipe, halves) == 1  # of the same class, so nothing is missing
    assert {half.param_groups[0]["lr"] for half in halves} == {1e-3}
    pipe.close()
    return said


def test_other_optimizers_are_refused_on_every_rank(folder: Path) -> None:
    first, second = run_ranks(2, refusals, folder)
    assert first == second
    overlap, missing, other, older = first
    assert re.search(r" \d\.[\w.]+ is in several of them; give it to one$", overlap)
    assert re.search(r" \d\.[\w.]+ is in none of them; give it to one or freeze it$", missing)
    assert re.search(r"of \d\.[\w.]+weight is Muon at \S+ and AdamW here; use that run's$", other)
    assert re.search(r"of \d\.[\w.]+weight is AdamW at \S+ and Muon here; use that run's$", older)


def divided(folder: Path) -> list[str]:
    """What is said where ranks that hold parts of the same have other rates, or other classes."""
    pipe, *_ = made(Plan(1, 1, B, dp_shard=2))
    rank, said = data_rank(pipe.mesh), []
    rates = torch.optim.AdamW(pipe.parameters(), lr=0.5 + rank)
    classes = (torch.optim.AdamW, torch.optim.SGD)[rank](pipe.parameters(), lr=0.5)
    for mine in (rates, classes):
        said.append(refusal(checkpoint.save, folder / "new", pipe, mine, 0))
    assert not list(folder.iterdir())
    pipe.close()
    return said


def test_optimizers_that_differ_on_ranks_of_a_parameter_are_refused(tmp_path: Path) -> None:
    first, second = run_ranks(2, divided, tmp_path)
    assert first == second
    rates, classes = first
    assert re.search(r"\.lr is 0.5 on rank 0 and 1.5 on rank 1; give all ranks the same$", rates)
    assert re.search(r" is AdamW on rank 0 and SGD on rank 1; give all ranks the same$", classes)

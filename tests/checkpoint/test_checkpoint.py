"""Checkpoints of a model with tied embeddings, read in other layouts, optimizer included."""

from pathlib import Path

import pytest
import torch

from support.exactness import Plain, relative_error, whole
from support.features import Batch, even, gpt, loss_sum
from support.ranks import run_ranks
from zeropp import checkpoint
from zeropp.build import pipeline
from zeropp.plan import Plan
from zeropp.runtime.mesh import data_rank, data_size
from zeropp.runtime.pipeline import Pipeline

B = 4
WRITERS = (Plan(1, 1, B), Plan(2, 2, B), Plan(2, 2, B, "zb-v", dp_shard=2))
READERS = (Plan(1, 2, B), Plan(2, 2, B, "zb-v"), Plan(1, 1, B, dp_shard=2), Plan(4, 1, B))


def make(plan: Plan) -> tuple[Pipeline, torch.optim.AdamW]:
    torch.manual_seed(3)
    pipe = pipeline(gpt(tied=True), loss_sum, plan)
    return pipe, torch.optim.AdamW(pipe.parameters(), lr=1e-2, eps=1e-4)


def batch(step: int) -> Batch:
    return even(B, torch.Generator().manual_seed(step))


def part(pipe: Pipeline, whole_batch: Batch) -> Batch:
    """A data rank's samples of every micro-batch."""
    rank, ranks = data_rank(pipe.mesh), data_size(pipe.mesh)
    return [(x.chunk(ranks)[rank], y.chunk(ranks)[rank]) for x, y in whole_batch]


def train(pipe: Pipeline, optimizer: torch.optim.AdamW, steps: range) -> None:
    for step in steps:
        pipe.step(part(pipe, batch(step)))
        optimizer.step()
        optimizer.zero_grad()


def write(plan: Plan, folder: str) -> None:
    pipe, optimizer = make(plan)
    train(pipe, optimizer, range(2))
    checkpoint.save(Path(folder), pipe, optimizer, 2)
    pipe.close()


def read_and_continue(plan: Plan, folders: list[str]) -> list[float]:
    """For each checkpoint, the worst error after one more step than it was written at."""
    torch.manual_seed(3)
    plain = Plain(gpt(tied=True))
    unique = list(dict.fromkeys(plain.parameters().values()))
    reference = torch.optim.AdamW(unique, lr=1e-2, eps=1e-4)
    for step in range(3):
        plain.losses(batch(step), {})[0].backward()
        reference.step()
        reference.zero_grad()
    wanted = plain.parameters()
    worst = []
    for folder in folders:
        pipe, optimizer = make(plan)
        with torch.no_grad():
            for parameter in pipe.parameters():
                parameter.zero_()  # everything must come from the checkpoint
        step = checkpoint.load(Path(folder), pipe, optimizer)
        train(pipe, optimizer, range(step, 3))
        errors = (
            relative_error(whole(p), wanted[name].detach()) for name, p in pipe.named_parameters()
        )
        worst.append(max(errors))
        pipe.close()
    return worst


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A checkpoint of every writer."""
    made = []
    for index, plan in enumerate(WRITERS):
        folder = str(tmp_path_factory.mktemp("checkpoints") / str(index))
        run_ranks(plan.world_size, write, plan, folder)
        made.append(folder)
    return made


@pytest.mark.parametrize("plan", READERS, ids=lambda p: f"{p.schedule}-P{p.pp_size}-D{p.dp_size}")
def test_training_goes_on_as_if_never_interrupted(plan: Plan, folders: list[str]) -> None:
    for errors in run_ranks(plan.world_size, read_and_continue, plan, folders):
        assert len(errors) == len(WRITERS)
        assert max(errors) < 1e-5


def test_a_tied_parameter_is_held_once(folders: list[str]) -> None:
    blocks = gpt(tied=True)
    for folder in folders:
        checkpoint.check(Path(folder), blocks)
    with pytest.raises(ValueError, match=r"7\.linear\.weight is absent there"):
        checkpoint.check(Path(folders[0]), gpt())

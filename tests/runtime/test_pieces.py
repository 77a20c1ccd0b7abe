"""Head and loss in pieces of tokens: plain PyTorch's numbers, in every layout, and never whole."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy

import zeropp
from support.exactness import relative_error
from support.features import gpt
from support.ranks import run_ranks
from zeropp.build import pipeline
from zeropp.plan import Plan
from zeropp.runtime.mesh import data_rank

B, VOCAB = 4, 11


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), targets, reduction="sum", ignore_index=-100)


def batch_of(rank: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rank)
    inputs, targets = torch.randint(VOCAB, (2, 2 * B, 5), generator=generator)
    return inputs, targets.masked_fill(targets == 3, -100)


class Summed:
    """`token_loss` as plain PyTorch calls it, of all logits at once."""

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        return token_loss(logits.flatten(0, -2), targets.flatten())


def step_errors(plan: Plan, tied: bool, low: bool) -> dict[str, float]:
    """In pieces of 3 of 10 tokens, against a pipeline of whole logits on the same ranks."""
    policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32) if low else None
    torch.manual_seed(1)
    blocks = gpt(tied=tied)
    others: list[Any] = copy.deepcopy(blocks)
    others[-1] = zeropp.HeadInPieces(others[-1], tokens=3)
    whole = pipeline(blocks, Summed(), plan, precision=policy)
    pieces = pipeline(others, zeropp.LossInPieces(token_loss), plan, precision=policy)
    own = batch_of(data_rank(whole.mesh))
    wanted, found = whole.step(own), pieces.step(own)
    errors = {"loss": relative_error(found.loss, wanted.loss)}
    gradients = {name.replace("head.", "", 1): p.grad for name, p in pieces.named_parameters()}
    for name, parameter in whole.named_parameters():
        if parameter.grad is not None:
            other = gradients[name]
            assert other is not None, name
            mine, theirs = (_local(t) for t in (other, parameter.grad))
            errors[name] = relative_error(mine, theirs)
    errors["eval"] = relative_error(pieces.eval(own, 2).loss, whole.eval(own, 2).loss)
    outputs, wholes = pieces.predict(own[0]), whole.predict(own[0])
    for (one,), (other,) in zip(outputs or [], wholes or [], strict=True):
        errors["logits"] = relative_error(one.float(), other.float())
    whole.close()
    pieces.close()
    return errors


def _local(tensor: Any) -> Tensor:
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


@pytest.mark.parametrize(
    ("plan", "tied", "low"),
    [
        (Plan(1, 2, B), True, False),
        (Plan(2, 2, B), False, False),
        (Plan(2, 2, B, "zb-v", recompute="full"), True, False),
        (Plan(1, 2, B, dp_shard=2, max_resident=1), False, False),
        (Plan(2, 1, B), False, True),
    ],
    ids=str,
)
def test_pieces_give_the_numbers_of_the_whole(plan: Plan, tied: bool, low: bool) -> None:
    for errors in run_ranks(plan.world_size, step_errors, plan, tied, low):
        assert max(errors.values()) < (2e-2 if low else 1e-5), errors


def refusals() -> list[str]:
    said = []
    for loss, targets in (
        (zeropp.LossInPieces(F.cross_entropy), torch.zeros(8, 5, dtype=torch.int64)),
        (zeropp.LossInPieces(token_loss), torch.zeros(8, 4, dtype=torch.int64)),
    ):
        blocks: list[Any] = gpt()
        blocks[-1] = zeropp.HeadInPieces(blocks[-1])
        pipe = pipeline(blocks, loss, Plan(1, 1, 2))
        with pytest.raises((ValueError, zeropp.StepFailedError)) as error:
            pipe.step((torch.ones(8, 5, dtype=torch.int64), targets))
        said.append(str(error.value))
        pipe.close()
    return said


class Counting(torch.nn.Module):
    """Adds up what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen += x.detach().sum()
        return x


class Dropping(torch.nn.Module):
    """Drops in training, by a function."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, self.training)


def said_of_heads() -> list[str | None]:
    """What is said of heads that do more than a token by itself, training or not."""
    said: list[str | None] = []
    for module in (Dropping(), torch.nn.Dropout(0.0), torch.nn.BatchNorm1d(16), Counting()):
        for trains in (True, False):
            blocks: list[Any] = gpt()
            blocks[-1] = zeropp.HeadInPieces(torch.nn.Sequential(module, blocks[-1]), 3)
            blocks[-1].train(trains)
            pipe = pipeline(blocks, zeropp.LossInPieces(token_loss), Plan(1, 1, 2))
            try:
                pipe.step((torch.ones(8, 5, dtype=torch.int64),) * 2)
                said.append(None)
            except ValueError as refused:
                said.append(str(refused))
            pipe.close()
    return said


def test_a_head_that_gives_other_numbers_in_pieces_is_refused() -> None:
    (said,) = run_ranks(1, said_of_heads)
    assert said[1:4] == [None] * 3  # what draws nothing, or does not train
    assert said[0] is not None
    assert "a head in pieces draws random numbers" in said[0]
    assert said[4] is not None
    assert "normalises over the tokens of a piece alone (0)" in said[4]
    assert said[5] is None
    assert said[6] == said[7] is not None
    assert "a head in pieces changes its buffer 0.seen, once for each piece" in said[6]


def test_a_mean_and_other_targets_are_refused() -> None:
    mean, shape = run_ranks(1, refusals)[0]
    assert "loss_fn gives a mean" in mean
    assert "targets must be of shape [4, 5], one for each token" in shape
    with pytest.raises(ValueError, match="tokens must be at least 1, got 0"):
        zeropp.HeadInPieces(torch.nn.Identity(), 0)
    with pytest.raises(ValueError, match="a head in pieces has no AuxiliaryLoss"):
        zeropp.HeadInPieces(torch.nn.Sequential(torch.nn.Identity(), zeropp.AuxiliaryLoss()))

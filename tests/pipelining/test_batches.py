"""Batches of several sizes in torch's stages: exact where no message is sent, else refused."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage
from torch.nn.functional import mse_loss

from support.exactness import relative_error
from support.ranks import run_ranks
from zeropp.torch import ScheduleZeroPP

B, WIDTH = 4, 6
UNEVEN = (
    "batch: micro-batch 2 is of 2x6, the first of 3x6; torch's messages have one shape, so give "
    "batches of one size, a multiple of n_microbatches"
)


def total(output: Tensor, target: Tensor) -> Tensor:
    return mse_loss(output, target, reduction="sum")


class Chain:
    """A pipeline of one layer on each rank, and the same layers in plain PyTorch."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.rank, self.P = dist.get_rank(), dist.get_world_size()
        self.layers = nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(self.P)))
        self.own = copy.deepcopy(self.layers[self.rank])
        device = torch.device("cpu", 0)  # as torchtitan names it
        stage = PipelineStage(self.own, self.rank, self.P, device)
        self.schedule = ScheduleZeroPP(stage, B, total, unit_size=2, scale_grads=False)

    def run(self, rows: int, *, trains: bool = True, cut: bool = False) -> float:
        """The worst error of this rank's loss and gradients."""
        seed = torch.Generator().manual_seed(rows)  # the same on ranks that ran more
        inputs, target = torch.randn(2, rows, WIDTH, generator=seed)
        losses: list[Tensor] = []
        given: dict[str, Any] = {}
        if self.rank == self.P - 1:
            given = {"target": target, "losses": losses}
        whole = (inputs,) if self.rank == 0 else ()
        if cut and whole:
            whole, given["arg_mbs"] = (), [(part,) for part in inputs.tensor_split(B)]
        (self.schedule.step if trains else self.schedule.eval)(*whole, **given)
        loss = total(self.layers(inputs), target)
        got = torch.stack(losses).sum().detach() if losses else None
        errors = [] if got is None else [relative_error(got, loss.detach())]
        if trains:
            loss.backward()
            pairs = zip(self.own.parameters(), self.layers[self.rank].parameters(), strict=True)
            errors += [relative_error(own.grad, plain.grad) for own, plain in pairs]
        return max(errors, default=0)


def said(run: Callable[..., Any], *args: Any, **options: Any) -> str:
    """What it refuses with."""
    with pytest.raises(ValueError, match="batch: ") as refused:
        run(*args, **options)
    return str(refused.value)


def over_three_ranks() -> tuple[list[float], list[str], list[str]]:
    """Errors; what every rank is told; what those are told that see a batch."""
    chain = Chain()
    every = [said(chain.run, 10)]
    errors = [chain.run(8), chain.run(8)]  # which adds to what is there
    errors.append(chain.run(12, trains=False))
    every += [said(chain.run, 10), said(chain.run, 3)]
    errors += [chain.run(12)]
    seen = []
    if chain.rank != 1:  # who is given nothing would wait
        seen = [said(chain.run, 10), said(chain.run, 8)]
    dist.barrier()
    errors.append(chain.run(12))
    return errors, every, seen


def test_another_size_is_refused_before_anything_runs() -> None:
    few = UNEVEN.replace("2 is of 2x6", "3 is of 0x6").replace("3x6", "1x6")
    other = UNEVEN.replace("2 is of 2x6", "0 is of 2x6")
    for rank, (errors, every, seen) in enumerate(run_ranks(3, over_three_ranks)):
        assert max(errors) < 1e-5
        assert every == [f"rank 0: {line}" for line in (UNEVEN, UNEVEN, few)]
        assert seen == ([] if rank == 1 else [UNEVEN, other])


def cut_by_hand() -> str:
    return said(Chain().run, 10, cut=True)


@pytest.mark.skipif(
    "arg_mbs" not in (ScheduleZeroPP.__mro__[1].step.__annotations__),
    reason="torch 2.13 takes whole batches alone",
)
def test_micro_batches_cut_by_hand_are_alike_too() -> None:
    assert run_ranks(2, cut_by_hand) == [UNEVEN] * 2


def alone() -> float:
    return Chain().run(10)


def test_one_rank_takes_any_size() -> None:
    (error,) = run_ranks(1, alone)
    assert error < 1e-5

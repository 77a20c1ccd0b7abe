"""A run that goes on in any other layout, with its optimizer, its data and its dropout."""

from itertools import chain
from pathlib import Path

import pytest
import torch
from torch.distributed.fsdp import MixedPrecisionPolicy

from support.features import even, gpt, loss_sum
from support.ranks import run_ranks
from zeropp import checkpoint
from zeropp.build import pipeline
from zeropp.plan import Plan
from zeropp.runtime.mesh import data_rank, data_size
from zeropp.runtime.pipeline import Pipeline

B, SAVED_AT, STEPS = 4, 3, 13
# of eight micro-batches in all, whose numbers dropout goes by
LAYOUTS = (
    Plan(2, 2, 2 * B, unit_size=2),
    Plan(1, 4, 2 * B, "interleaved-1f1b"),
    Plan(2, 2, B, "zb-v", dp_shard=2),
    Plan(4, 1, 2 * B, "zb-h1"),
)
BF16 = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


def made(plan: Plan, precision: MixedPrecisionPolicy) -> tuple[Pipeline, torch.optim.AdamW]:
    torch.manual_seed(3)
    blocks = gpt(tied=True)
    blocks[3:3] = [torch.nn.Dropout(0.1)]
    pipe = pipeline(blocks, loss_sum, plan, precision=precision, seed=5)
    return pipe, torch.optim.AdamW(pipe.parameters(), lr=1e-3, eps=1e-4)


def losses(pipe: Pipeline, optimizer: torch.optim.AdamW, steps: range) -> list[float]:
    rank, each, found = data_rank(pipe.mesh), 2 * B // data_size(pipe.mesh), []
    for step in steps:
        halves = (
            zip(x.chunk(2), y.chunk(2), strict=True)
            for x, y in even(B, torch.Generator().manual_seed(step))
        )
        whole = list(chain.from_iterable(halves))
        out = pipe.step(whole[rank * each : (rank + 1) * each])
        optimizer.step()
        optimizer.zero_grad()
        found.append(float(out.loss))
    return found


def write(plan: Plan, precision: MixedPrecisionPolicy, folder: Path) -> list[float]:
    """The losses of a run that is not interrupted, and a checkpoint of its third step."""
    pipe, optimizer = made(plan, precision)
    before = losses(pipe, optimizer, range(SAVED_AT))
    checkpoint.save(folder / "saved", pipe, optimizer, SAVED_AT)
    after = losses(pipe, optimizer, range(SAVED_AT, STEPS))
    pipe.close()
    return before + after


def go_on(plan: Plan, precision: MixedPrecisionPolicy, folders: list[Path]) -> list[list[float]]:
    found = []
    for folder in folders:
        pipe, optimizer = made(plan, precision)
        with torch.no_grad():
            for parameter in pipe.parameters():
                parameter.zero_()
        step = checkpoint.load(folder / "saved", pipe, optimizer)
        found.append(losses(pipe, optimizer, range(step, STEPS)))
        pipe.close()
    return found


@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [
        pytest.param(MixedPrecisionPolicy(), 1e-5, id="fp32"),
        pytest.param(BF16, 1e-2, id="bf16", marks=pytest.mark.nightly),
    ],
)
def test_ten_losses_follow_in_any_layout(
    precision: MixedPrecisionPolicy, tolerance: float, tmp_path: Path
) -> None:
    plans = LAYOUTS if tolerance < 1e-3 else LAYOUTS[::2]
    folders = [tmp_path / str(index) for index in range(len(plans))]
    whole = []
    for plan, folder in zip(plans, folders, strict=True):
        folder.mkdir()
        whole.append(run_ranks(plan.world_size, write, plan, precision, folder)[0])
    for index, plan in enumerate(plans):
        found = run_ranks(plan.world_size, go_on, plan, precision, folders)[0]
        assert found[index] == whole[index][SAVED_AT:]
        for after in found:
            assert after == pytest.approx(whole[0][SAVED_AT:], rel=tolerance)

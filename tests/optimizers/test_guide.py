"""The guide's example of two optimizers runs as it stands, on shards."""

import re
from pathlib import Path

import torch

import zeropp
from support.features import even, gpt, loss_sum
from support.ranks import run_ranks
from zeropp import checkpoint
from zeropp.plan import Plan

GUIDE = Path(__file__).parents[2] / "docs" / "guide.md"


def steps_of(code: str, folder: Path) -> list[int]:
    """How many parameters each optimizer has stepped."""
    blocks = gpt()
    pipe = zeropp.pipeline(blocks, loss_sum, Plan(1, 1, 4, dp_shard=2))
    batch = even(4, torch.Generator().manual_seed(0))
    names = {"zeropp": zeropp, "torch": torch, "folder": folder}
    names |= {"blocks": blocks, "pipe": pipe, "batch": batch}
    exec(code, names)
    pipe.close()
    return [len(names[optimizer].state) for optimizer in ("muon", "adamw")]


def test_the_example_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text("utf-8"), re.S | re.M)
    parameters = [p for block in gpt() for p in block.parameters()]
    inner = sum(p.ndim == 2 for block in gpt()[1:-1] for p in block.parameters())
    for counts in run_ranks(2, steps_of, code, tmp_path / "saved"):
        assert counts == [inner, len(parameters) - inner]
    checkpoint.check(tmp_path / "saved", gpt())

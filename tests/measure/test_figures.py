"""What a line of metrics has besides the loss: memory of the fullest rank, and utilisation."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from support.ranks import run_ranks
from zeropp.ir.model import SIZES
from zeropp.measure.memory import Peak
from zeropp.planner.hardware import GIB, GPUS, gpu_like
from zeropp.train.config import Config, DataConfig, ModelConfig
from zeropp.train.environment import flops_per_token, peak_flops
from zeropp.train.figures import Figures

CPU = torch.device("cpu")
TINY = [
    *("--model.layers", "2", "--data.seq-len", "16", "--data.micro-batch-size", "1"),
    *("--parallel.num-chunks", "1", "--parallel.num-microbatches", "2"),
    *("--run.sample", "0", "--run.eval-every", "3", "--run.steps", "3"),
]


@pytest.mark.parametrize(
    ("name", "gib", "known"),
    [
        ("NVIDIA H100 80GB HBM3", 79.1, "H100-80G"),
        ("NVIDIA H200", 139.8, "H200"),
        ("NVIDIA A100-SXM4-40GB", 39.4, "A100-40G"),
        ("NVIDIA A100-SXM4-80GB", 79.3, "A100-80G"),
        ("NVIDIA GeForce RTX 4090", 23.6, "RTX4090"),
        ("NVIDIA H20", 95.6, "H20"),
        ("NVIDIA T4", 14.7, None),
        ("NVIDIA H100 NVL", 93.6, None),
    ],
)
def test_gpus_are_known_by_what_drivers_call_them(name: str, gib: float, known: str | None) -> None:
    assert gpu_like(name, gib * GIB) == (None if known is None else GPUS[known])


def test_flops_of_a_token_are_six_a_weight_and_attention() -> None:
    size, length = "gpt2-124m", 1024
    gpt = SIZES[size]
    config = Config(model=ModelConfig(size=size), data=DataConfig(seq_len=length))
    weights = gpt.layers * 12 * gpt.hidden**2 + gpt.hidden * gpt.vocab_size
    attention = 3 * 4 * gpt.layers * gpt.hidden * length  # both products, in F and twice in B
    assert flops_per_token(config) == pytest.approx(6 * weights + attention, rel=0.01)


def test_no_peak_is_made_up_for_a_processor() -> None:
    assert peak_flops(CPU) is None


def used() -> list[float | None]:
    figures, step = Figures(CPU), {"tokens_per_s": 1000.0}
    lines = [figures.of_line(step, 2**30, *known) for known in ((1e6, 200.0), (None, 1.0))]
    return [line["mfu"] for line in lines] + [line["memory_gib"] for line in lines]


def test_utilisation_is_of_all_ranks() -> None:
    for found in run_ranks(2, used):
        assert found == [0.1, None, 1.0, 1.0]


def test_a_peak_begins_anew() -> None:
    peak = Peak(CPU)
    peak.take()
    held = bytearray(2**28)
    held[:: 2**10] = b"1" * 2**18
    high = peak.take()
    del held
    assert peak.take() == pytest.approx(high, rel=0.1)  # it was held when the look before was over
    assert peak.take() < high - 2**27
    assert peak.ever >= high


def test_a_run_leaves_what_a_page_tells(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "zeropp.cli.main", "train", *TINY]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "demo"
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert all(0.1 < step["memory_gib"] < 10 and step["mfu"] is None for step in steps)
    (start,) = json.loads((run / "environment.json").read_text())
    assert (start["step"], start["steps"], start["ranks"]) == (0, 3, 2)
    assert start["versions"]["torch"] == torch.__version__
    memory = json.loads((run / "memory.json").read_text())
    assert memory["predicted"] is None
    assert [rank["optimizer"] > rank["parameters"] > 0 for rank in memory["measured"]] == [True] * 2

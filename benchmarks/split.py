"""The B/W split on a real GPT layer stack: its time against a fused backward, its memory between B
and W against re-walking the autograd graph as torch.distributed.pipelining does.

Run: python benchmarks/split.py [--json]; one thread, about a minute.
"""

import os
import time
from collections.abc import Callable
from functools import partial
from statistics import median, quantiles

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.pipelining._backward import stage_backward_input, stage_backward_weight

from support.claim import Figure, Row, run
from support.gpt import Task
from support.memory import ALLOCATOR, resident
from support.ranks import run_ranks
from zeropp.ir.model import GPTConfig
from zeropp.runtime.lane import ThreadLane
from zeropp.runtime.shard import place_parameters
from zeropp.runtime.stage import Stage, StageModule

CLAIM = "The split costs no time and holds only what W needs"

CONFIG = GPTConfig(vocab_size=256, seq_len=256, layers=4, hidden=512, heads=8)
BATCH, PAIRS = 4, 15
Runner = Callable[[Tensor, Tensor], Callable[[], object]]  # F and B of input and output gradient


def stack() -> list[nn.Module]:
    """The decoder layers, without embedding and head."""
    return Task(CONFIG, 1, BATCH).blocks()[1:-1]


def _tensors() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (BATCH, CONFIG.seq_len, CONFIG.hidden)
    x, grad = (torch.randn(shape, generator=generator) for _ in range(2))
    return x.requires_grad_(), grad


def ours() -> Runner:
    """F and B of a stage; what is returned runs W."""
    module, policy = StageModule(dict(enumerate(stack()))), MixedPrecisionPolicy()
    placed = place_parameters({0: module}, None, policy, ThreadLane())
    stage = Stage(module, placed[0], policy)

    def until_weight(x: Tensor, grad: Tensor) -> Callable[[], object]:
        stage.forward(0, (x,), {}, torch.tensor(1.0))
        stage.backward(0, (grad,), fused=False)
        return partial(stage.weight, 0)

    return until_weight


def rewalk() -> Runner:
    """The same by torch's own functions."""
    module = nn.Sequential(*stack())
    weights = list(module.parameters())

    def until_weight(x: Tensor, grad: Tensor) -> Callable[[], object]:
        _, groups = stage_backward_input([module(x)], [grad], [x], iter(weights))
        return lambda: stage_backward_weight(iter(weights), groups)

    return until_weight


def paired_ratios() -> list[float]:
    """Time of F + B + W over the mean of plain runs, forward and backward, before and after it."""
    split, plain = ours(), nn.Sequential(*stack())
    x, grad = _tensors()
    splits, fuseds = [], []
    for _ in range(PAIRS + 2):
        start = time.perf_counter()
        plain(x).backward(grad)
        between = time.perf_counter()
        split(x, grad)()
        fuseds.append(between - start)
        splits.append(time.perf_counter() - between)
    around = zip(splits[1:], fuseds[1:], fuseds[2:], strict=False)  # the first ones warm up
    return [2 * own / (before + after) for own, before, after in around]


def held(make: Callable[[], Runner]) -> float:
    """MiB that are alive between B and W, and were not before F."""
    until_weight = make()
    x, grad = _tensors()
    until_weight(x, grad)()  # buffers of gradients exist from here on
    before = resident()
    finish = until_weight(x, grad)
    between = resident() - before
    finish()
    return between


def measure() -> tuple[list[Row], list[Figure]]:
    """Times here, memory in fresh processes."""
    torch.set_num_threads(1)
    ratios = paired_ratios()
    low, _, high = quantiles(ratios, n=4)
    os.environ.update(ALLOCATOR)
    own, theirs = (run_ranks(1, held, make)[0] for make in (ours, rewalk))
    rows = [
        {"pairs": len(ratios), "quartiles": f"{low:.3f} to {high:.3f}"},
        {"MiB between B and W": f"{own:.1f}", "re-walking": f"{theirs:.1f}"},
    ]
    figures = [
        Figure("F + B + W over forward + backward", median(ratios), 1.03, "times"),
        Figure("bytes between B and W over re-walking", own / theirs, 0.75, "times"),
    ]
    return rows, figures


if __name__ == "__main__":
    run(CLAIM, measure)

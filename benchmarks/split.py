"""The B/W split on a real GPT layer stack: its time against a fused backward, its memory between B
and W against re-walking the autograd graph as torch.distributed.pipelining does.

Run: python benchmarks/split.py [--json]; one thread, about a minute.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median, quantiles

import torch
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.pipelining._backward import stage_backward_input, stage_backward_weight

from claim import Figure, parser, report
from zeropp.ir.model import GPTConfig
from zeropp.models import gpt_blocks, init_block
from zeropp.runtime.lane import ThreadLane
from zeropp.runtime.shard import place_parameters
from zeropp.runtime.stage import Stage, StageModule

CLAIM = "The split costs no time and holds only what W needs"

CONFIG = GPTConfig(vocab_size=256, seq_len=256, layers=4, hidden=512, heads=8)
BATCH, PAIRS = 4, 15


def stack() -> StageModule:
    """The decoder layers, without embedding and head."""
    blocks = gpt_blocks(CONFIG)
    for index, block in enumerate(blocks):
        init_block(block, CONFIG, index, seed=0)
    return StageModule(dict(enumerate(blocks[1:-1])))


def tensors() -> tuple[Tensor, Tensor]:
    """Input and output gradient."""
    generator = torch.Generator().manual_seed(0)
    shape = (BATCH, CONFIG.seq_len, CONFIG.hidden)
    x, grad = (torch.randn(shape, generator=generator) for _ in range(2))
    return x.requires_grad_(), grad


class Ours:
    """F, B and W of a stage."""

    def __init__(self) -> None:
        self.module = stack()
        policy = MixedPrecisionPolicy()
        placed = place_parameters({0: self.module}, None, policy, ThreadLane())
        self.stage = Stage(self.module, placed[0], policy)

    def until_weight(self, x: Tensor, grad: Tensor) -> Callable[[], None]:
        """F and B; what is returned runs W."""
        self.stage.forward(0, (x,), {}, torch.tensor(1.0))
        self.stage.backward(0, (grad,), fused=False)
        return lambda: self.stage.weight(0)


class Rewalk:
    """The same by torch's own functions."""

    def __init__(self) -> None:
        self.module = stack()

    def until_weight(self, x: Tensor, grad: Tensor) -> Callable[[], None]:
        """F and B; what is returned runs W."""
        y = x
        for block in self.module.blocks:
            y = block(y)
        weights = list(self.module.parameters())
        _, groups = stage_backward_input([y], [grad], [x], iter(weights))
        return lambda: _discard(stage_backward_weight(iter(weights), groups))


def _discard(value: object) -> None:
    del value


def fused(module: StageModule, x: Tensor, grad: Tensor) -> None:
    """Plain forward and backward."""
    y = x
    for block in module.blocks:
        y = block(y)
    y.backward(grad)


def paired_ratios() -> list[float]:
    """Time of F + B + W over that of plain forward and backward, pair by pair, in turn."""
    ours, plain = Ours(), stack()
    x, grad = tensors()
    times = []
    for index in range(2 * PAIRS + 3):
        start = time.perf_counter()
        if index % 2:
            ours.until_weight(x, grad)()
        else:
            fused(plain, x, grad)
        times.append(time.perf_counter() - start)
    # each split run against the mean of the plain runs before and after it
    later = times[2:]
    return [
        2 * split / (before + after)
        for (before, split), (_, after) in zip(
            pairwise(later[:-1]), pairwise(later[1:]), strict=False
        )
    ][::2]


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def held(side: str) -> int:
    """Bytes that are alive between B and W, and were not before F."""
    runner = {"ours": Ours, "re-walk": Rewalk}[side]()
    x, grad = tensors()
    runner.until_weight(x, grad)()  # buffers of gradients exist from here on
    before = resident()
    finish = runner.until_weight(x, grad)
    between = resident() - before
    finish()
    return between


def measured_held(side: str) -> int:
    """`held` in a fresh process whose allocator returns every freed tensor at once."""
    fixed = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(
        [sys.executable, __file__, "--held", side],
        env=os.environ | fixed,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def main() -> int:
    """Measure and report."""
    wanted = parser(CLAIM).parse_args()
    ratios = paired_ratios()
    low, _, high = quantiles(ratios, n=4)
    ours, theirs = measured_held("ours"), measured_held("re-walk")
    rows = [
        {"pairs": len(ratios), "quartiles": f"{low:.3f} to {high:.3f}"},
        {"MiB between B and W": f"{ours / 2**20:.1f}", "re-walking": f"{theirs / 2**20:.1f}"},
    ]
    figures = [
        Figure("F + B + W over forward + backward", median(ratios), 1.03, "times"),
        Figure("bytes between B and W over re-walking", ours / theirs, 0.75, "times"),
    ]
    return report(CLAIM, rows, figures, wanted)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "--held" in sys.argv:
        print(held(sys.argv[-1]))
        sys.exit(0)
    sys.exit(main())

"""A head over 150,000 tokens in pieces, against the same head whole: memory, time, gradients.

Run: python benchmarks/pieces.py [--json]; one rank, one thread, a minute or two.
"""

import os
import time
from contextlib import closing
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zeropp
from support.claim import Figure, Row, run
from support.memory import ALLOCATOR, grown
from support.ranks import run_ranks
from zeropp import Plan

CLAIM = "A head in pieces needs a quarter of the memory, and no more time"
VOCAB, TOKENS, HIDDEN, PIECE = 150_000, 2048, 256, 256
REPEATS = 3


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """As the trainer's, of rows."""
    return F.cross_entropy(logits.float(), targets, reduction="sum")


def pipe_of(pieces: bool) -> zeropp.Pipeline:
    """Two linear layers and the head on one rank; always the same weights."""
    torch.manual_seed(0)
    head: nn.Module = nn.Linear(HIDDEN, VOCAB, bias=False)
    blocks = [nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, HIDDEN), head]
    if pieces:
        blocks[-1] = zeropp.HeadInPieces(head, PIECE)
    loss: Any = zeropp.LossInPieces(token_loss) if pieces else token_loss
    return zeropp.pipeline(blocks, loss, Plan(1, 1, 1))


def batch() -> tuple[Tensor, Tensor]:
    """One micro-batch of `TOKENS` tokens."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(TOKENS, HIDDEN, generator=generator)
    return x, torch.randint(VOCAB, (TOKENS,), generator=generator)


def peak(pieces: bool) -> float:
    """MiB by which a step's memory grows at most, gradients included, in a process of its own."""
    torch.set_num_threads(1)
    with closing(pipe_of(pieces)) as pipe:
        given = batch()
        return grown(lambda: pipe.step(given))


def compared() -> tuple[list[float], list[float], float]:
    """Seconds of steps whole and in pieces, in turns, and the worst error of a gradient."""
    torch.set_num_threads(1)
    given = batch()
    with closing(pipe_of(False)) as whole, closing(pipe_of(True)) as pieces:
        taken: tuple[list[float], list[float]] = ([], [])
        for _ in range(1 + REPEATS):
            for pipe, times in zip((whole, pieces), taken, strict=True):
                for parameter in pipe.parameters():
                    parameter.grad = None
                start = time.perf_counter()
                pipe.step(given)
                times.append(time.perf_counter() - start)
        errors = [
            float((p.grad - q.grad).norm() / q.grad.norm())
            for p, q in zip(pieces.parameters(), whole.parameters(), strict=True)
            if p.grad is not None and q.grad is not None
        ]
        return taken[0][1:], taken[1][1:], max(errors)


def measure() -> tuple[list[Row], list[Figure]]:
    """Memory in fresh processes, times in one."""
    os.environ.update(ALLOCATOR)
    held = [run_ranks(1, peak, pieces, timeout=280)[0] for pieces in (False, True)]
    ((whole, pieces, error),) = run_ranks(1, compared, timeout=580)
    rows: list[Row] = [
        {"MiB whole": f"{held[0]:.0f}", "in pieces": f"{held[1]:.0f}"},
        {"s whole": [round(t, 2) for t in whole], "in pieces": [round(t, 2) for t in pieces]},
    ]
    return rows, [
        Figure("peak memory over that of whole logits", held[1] / held[0], 0.25, "times"),
        Figure("time over that of whole logits", median(pieces) / median(whole), 1.1, "times"),
        Figure("worst error of a gradient", error, 1e-5, ""),
    ]


if __name__ == "__main__":
    run(CLAIM, measure)

"""AdamW with decay on matrices only, and a cosine schedule after a linear warm-up."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from zeropp.train.config import OptimConfig


def make_optimizer(parameters: Iterable[nn.Parameter], config: OptimConfig) -> torch.optim.AdamW:
    """AdamW; vectors (norms, biases) are not decayed."""
    every = list(parameters)
    groups = [
        {"params": [p for p in every if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in every if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr, betas=(0.9, 0.95))


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """The rate at `step` of `steps`: up linearly, then down a cosine to a tenth."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, steps - config.warmup)
    return config.lr * (0.55 + 0.45 * math.cos(math.pi * min(1.0, done)))

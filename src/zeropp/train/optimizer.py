"""AdamW, and the rate that it learns at."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from zeropp.train.config import OptimConfig


def make_optimizer(parameters: Iterable[nn.Parameter], config: OptimConfig) -> torch.optim.AdamW:
    """AdamW of what is trained, at no rate yet; vectors (norms, biases) are not decayed."""
    every = [parameter for parameter in parameters if parameter.requires_grad]
    groups = [
        {"params": [p for p in every if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in every if p.ndim < 2], "weight_decay": 0.0},
    ]
    used = [group for group in groups if group["params"]]
    return torch.optim.AdamW(used or groups[:1], lr=0.0, betas=(0.9, 0.95))


def learning_rate(highest: float, warmup: int, step: int, steps: int) -> float:
    """The rate at `step` of `steps`: up linearly, then down a cosine to a tenth."""
    if step < warmup:
        return highest * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return highest * (0.55 + 0.45 * math.cos(math.pi * min(1.0, done)))

"""The GPT as it is trained and measured: its blocks, precision, loss and optimizer."""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy

from zeropp.ir.model import GPTConfig
from zeropp.measure.profiling import Subject
from zeropp.models import gpt_blocks, init_block
from zeropp.planner.profile import Setting
from zeropp.runtime.inputs import Microbatch
from zeropp.train.config import OptimConfig


def meta_blocks(gpt: GPTConfig, compile_with: str) -> list[nn.Module]:
    """The blocks on the meta device, compiled when they first run; `off`: as they are."""
    with torch.device("meta"):
        blocks = gpt_blocks(gpt)
    if compile_with != "off":
        for block in blocks:
            block.compile(backend=compile_with)
    return blocks


def precision_of(name: str) -> MixedPrecisionPolicy:
    """`fp32`, or `bf16`: compute in bf16, sum and reduce in fp32."""
    if name == "fp32":
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of the cross-entropies of all tokens, in fp32."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum")


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


def gpt_subject(
    gpt: GPTConfig,
    seq_len: int,
    settings: tuple[Setting, ...],
    precision: str = "fp32",
    compile_with: str = "off",
) -> Subject:
    """What is profiled of `gpt`: random sequences of `seq_len` tokens, the rest as for training."""

    def batch(size: int) -> Microbatch:
        tokens = torch.randint(gpt.vocab_size, (size, seq_len))
        return Microbatch((tokens,), tokens, {})

    return Subject(
        meta_blocks(gpt, compile_with),
        ("embedding", *("layer",) * gpt.layers, "head"),
        lambda index, block: init_block(block, gpt, index, seed=0),
        token_loss,
        batch,
        seq_len,
        precision_of(precision),
        lambda parameters: make_optimizer(parameters, OptimConfig()),
        settings,
    )

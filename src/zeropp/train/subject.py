"""The GPT as what `runtime.profile` measures: its blocks, a random micro-batch, loss, optimizer."""

import torch
from torch import nn

from zeropp.ir.model import GPTConfig
from zeropp.measure.profiling import Subject
from zeropp.models import init_block
from zeropp.planner.profile import Setting
from zeropp.runtime.inputs import Microbatch
from zeropp.train.config import OptimConfig
from zeropp.train.model import meta_blocks, precision_of, token_loss
from zeropp.train.optim import make_optimizer


def gpt_subject(
    gpt: GPTConfig,
    seq_len: int,
    settings: tuple[Setting, ...],
    precision: str = "fp32",
    compile_with: str = "off",
) -> Subject:
    """`gpt` with sequences of `seq_len` tokens; `precision` and `compile_with` as for training."""

    def init(index: int, block: nn.Module) -> None:
        init_block(block, gpt, index, seed=0)

    def batch(size: int) -> Microbatch:
        tokens = torch.randint(gpt.vocab_size, (size, seq_len))
        return Microbatch((tokens,), tokens)

    return Subject(
        meta_blocks(gpt, compile_with),
        ("embedding", *("layer",) * gpt.layers, "head"),
        init,
        token_loss,
        batch,
        seq_len,
        precision_of(precision),
        lambda parameters: make_optimizer(parameters, OptimConfig()),
        settings,
    )

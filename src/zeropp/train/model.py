"""What the trainer asks of a model, whatever it is: blocks, loss, batches, text, a way out."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy

from zeropp.measure.profiling import Subject
from zeropp.planner.profile import Setting
from zeropp.runtime.inputs import Microbatch, Part, microbatches_of
from zeropp.train.config import OptimConfig
from zeropp.train.optimizer import make_optimizers


@dataclass(frozen=True)
class Model:
    """A model on the meta device.

    Attributes:
        blocks: as for `Pipeline`.
        kinds: of each block, by name; those of a kind take the same time.
        fill: `init` or `load` of `Pipeline`, by its name.
        loss_fn: as for `Pipeline`.
        tokens: as for `Pipeline`.
        batch: what a step is given of tokens, labels (the tokens themselves, -100 where nothing is
            to be said) and, of packed documents, positions; each [samples, tokens].
        ahead: how many tokens more than a sequence `batch` wants.
        vocab_size: tokens in the vocabulary.
        text: of tokens; None: nothing is known that makes it.
        export: writes what a checkpoint holds into a new folder, and says what it is then.
        check: raises ValueError where `fill` would fail, before any rank is there.
    """

    blocks: list[nn.Module]
    kinds: tuple[str, ...]
    fill: dict[str, Any]
    loss_fn: Callable[..., Tensor]
    tokens: Callable[..., Tensor | int] | None
    batch: Callable[[Tensor, Tensor, Tensor | None], Part]
    ahead: int
    vocab_size: int
    text: Callable[[NDArray[Any]], str] | None
    export: Callable[[Path, Path], str]
    check: Callable[[], None]

    def compiled(self, backend: str) -> "Model":
        """The same, its blocks compiled when they first run; `off`: as they are."""
        if backend != "off":
            for block in self.blocks:
                block.compile(backend=backend)
        return self


def precision_of(name: str) -> MixedPrecisionPolicy:
    """`fp32`, or `bf16`: compute in bf16, sum and reduce in fp32."""
    if name == "fp32":
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)


def subject_of(
    model: Model, seq_len: int, settings: tuple[Setting, ...], precision: str = "fp32"
) -> Subject:
    """What is profiled: random sequences of `seq_len` tokens, the rest as for training."""

    def batch(size: int) -> Microbatch:
        tokens = torch.randint(model.vocab_size, (size, seq_len + model.ahead))
        return microbatches_of(model.batch(tokens, tokens, None), 1)[0]

    (fill,) = model.fill.values()
    return Subject(
        model.blocks,
        model.kinds,
        fill,
        model.loss_fn,
        batch,
        seq_len,
        precision_of(precision),
        lambda parameters: make_optimizers(zip(repeat("1"), parameters), OptimConfig(), 3)[0],
        settings,
    )

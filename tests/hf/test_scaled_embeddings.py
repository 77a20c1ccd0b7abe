"""Scaled tables of transformers have their W, and it is what autograd makes of them."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.bart.modeling_bart import BartScaledWordEmbedding
from transformers.models.gemma3.modeling_gemma3 import Gemma3TextScaledWordEmbedding

from support.ranks import run_ranks
from zeropp.build import pipeline
from zeropp.plan import Plan

VOCAB, WIDTH = 11, 8


def gradients(kind: type[Any], dtype: torch.dtype) -> tuple[Tensor, Tensor, int]:
    """Of the table in W and by autograd, and how many parameters B gives a gradient."""
    torch.manual_seed(0)
    table = kind(VOCAB, WIDTH, 3, embed_scale=WIDTH**0.5).to(dtype)
    tokens = torch.randint(VOCAB, (2, 5))
    gy = torch.randn(2, 5, WIDTH, dtype=dtype)
    (wanted,) = torch.autograd.grad(table(tokens), table.weight, gy)
    pipe = pipeline([table], lambda y, t: (y * gy).sum(), Plan(1, 1, 1, "zb-h1"))
    (stage,) = pipe.stages
    (out,) = stage.forward(0, (tokens,), {}, torch.ones((), dtype=dtype))
    stage.backward(0, (gy,), fused=False)
    in_backward = len(stage.parameters.gradients.take())
    stage.weight(0)
    (found,) = stage.parameters.gradients.take().values()
    assert torch.equal(out, table(tokens))
    pipe.close()
    return found, wanted, in_backward


@pytest.mark.parametrize("kind", [BartScaledWordEmbedding, Gemma3TextScaledWordEmbedding])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_scaled_table_is_split(kind: type[Any], dtype: torch.dtype) -> None:
    ((found, wanted, in_backward),) = run_ranks(1, gradients, kind, dtype)
    assert in_backward == 0
    assert wanted[3].count_nonzero() == 0  # the padding
    assert torch.allclose(found, wanted, rtol=1e-6 if dtype is torch.float32 else 1e-2)

"""Models of transformers, as they are, train in pipelines as they do by themselves."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers.modeling_outputs import BaseModelOutputWithPast

from support.decoders import CONFIGS, VOCAB, adapted, decoder, errors, packed, tokens
from support.exactness import Case
from support.features import GPT
from support.ranks import run_ranks
from zeropp import Plan, hf

PLANS = {
    1: [Plan(1, 2, 4, unit_size=2)],
    2: [
        Plan(2, 2, 4, unit_size=2),
        Plan(2, 2, 4, "zb-v", recompute="full"),
        Plan(1, 2, 4, unit_size=2, dp_shard=2, max_resident=1, recompute="selective"),
    ],
    4: [Plan(4, 1, 4, unit_size=4), Plan(2, 2, 4, "zb-v", dp_shard=2, max_resident=1)],
}
MODELS = [
    *CONFIGS,
    "llama adapted",
    "mixtral adapted",
    "llama packed",
    "gemma3 packed",
    "gpt2 packed",
]
MODELS += [f"{n} pieces" for n in ("llama tied", "gemma2 capped", "mixtral balanced")]
MODELS += [f"{name} bf16" for name in ("llama", "gemma3", "gpt2")]  # experts are chosen by rounding
_BF16 = MixedPrecisionPolicy(torch.bfloat16, torch.float32)


def _make(name: str) -> Any:
    base, _, how = name.rpartition(" ")
    if how == "adapted":
        return adapted(base)
    return decoder(base if how in ("packed", "pieces", "bf16") else name)


def every(names: list[str], plans: list[Plan]) -> dict[str, float]:
    """The worst error of each model in each plan."""
    return {f"{n}; {Case(GPT, p)}": max(_errors(n, p).values()) for n in names for p in plans}


def _errors(name: str, plan: Plan) -> dict[str, float]:
    batch = tokens(2 * plan.num_microbatches * plan.dp_size)
    where = packed(batch[0]) if name.endswith("packed") else None
    pieces = 8 if name.endswith("pieces") else None
    policy = _BF16 if name.endswith("bf16") else None
    make = partial(_make, name)
    return errors(make, plan, batch, where, head_tokens=pieces, precision=policy)


@pytest.mark.parametrize("world_size", [1, 2, pytest.param(4, marks=pytest.mark.nightly)])
@pytest.mark.timeout(280)
def test_models_train_exactly(world_size: int) -> None:
    for found in run_ranks(world_size, every, MODELS, PLANS[world_size], timeout=270):
        wrong = {case: error for case, error in found.items() if not error <= _allowed(case)}
        assert not wrong


def _allowed(case: str) -> float:
    """In bf16, what a product is rounded to, over the layers."""
    return 5e-2 if " bf16;" in case else 1e-5


def _encoder_decoder() -> Any:
    config = transformers.T5Config(d_model=32, d_kv=8, num_layers=2, num_heads=4, vocab_size=VOCAB)
    return transformers.T5ForConditionalGeneration(config)


def _nested() -> Any:
    config = transformers.BertConfig(is_decoder=True, num_hidden_layers=2, hidden_size=24)
    return transformers.BertLMHeadModel(config)


def _classifier() -> Any:
    return transformers.LlamaForSequenceClassification(decoder("llama").config)


def _checkpointed() -> Any:
    model = decoder("llama")
    model.train().model.layers[1].gradient_checkpointing = True
    return model


def _odd(forward: Callable[..., Any]) -> Any:
    """A llama whose base model runs its layers by `forward(layers, hidden, **given)`."""
    model = decoder("llama")

    class Odd(type(model.model)):
        def forward(self, input_ids=None, inputs_embeds=None, **_: Any) -> Any:  # noqa: ANN001
            hidden = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
            place = torch.arange(hidden.shape[1])[None]
            angles = self.rotary_emb(hidden, position_ids=place)
            hidden = self.norm(forward(self.layers, hidden, position_embeddings=angles))
            return BaseModelOutputWithPast(last_hidden_state=hidden)

    model.model.__class__ = Odd
    return model


def _looped(layers: nn.ModuleList, hidden: Tensor, **given: Any) -> Tensor:
    for layer in (*layers, *layers):
        hidden = layer(hidden, **given)
    return hidden


def _two_streams(layers: nn.ModuleList, hidden: Tensor, **given: Any) -> Tensor:
    first = hidden
    for layer in layers:
        hidden = layer(hidden, embedded=first, **given)
    return hidden


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (_encoder_decoder, "it has 2 lists of 2 layers, wanted 1"),
        (_nested, "its base model does not run without its layers"),
        (_classifier, "it gives no logits over a vocabulary"),
        (lambda: decoder("llama").model, "it gives no logits over a vocabulary"),
        (lambda: _odd(_looped), "its layers do not run once each, in their order"),
        (lambda: _odd(_two_streams), "layer 0 is given more than the hidden state"),
        (_checkpointed, "the model checkpoints its layers by itself"),
        (lambda: nn.Linear(2, 2), "wanted a model of transformers, got Linear"),
    ],
)
def test_a_model_that_cannot_be_cut_is_refused_with_the_reason(
    make: Callable[[], Any], why: str
) -> None:
    with pytest.raises(ValueError, match=f"^hf.blocks: .*{why}"):
        hf.blocks(make())


def test_cutting_draws_no_random_numbers_and_leaves_the_model_as_it_is() -> None:
    model = decoder("gpt2")
    before, ids = torch.get_rng_state(), tokens(2)[0]
    names = list(model.state_dict())
    x: Any = ids
    for block in hf.blocks(model):
        x = block(x)
    assert torch.equal(torch.get_rng_state(), before)
    assert list(model.state_dict()) == names
    assert torch.equal(x, model(input_ids=ids, use_cache=False).logits)


def test_a_loss_that_is_not_of_the_next_token_is_refused() -> None:
    config = transformers.BartConfig(
        vocab_size=VOCAB, d_model=32, encoder_layers=2, decoder_layers=2
    )
    with pytest.raises(ValueError, match="BartForCausalLM has another loss than that of the next"):
        hf.loss(transformers.BartForCausalLM(config))

"""What the planner is told of a model: kinds of blocks, sizes, and what of it is trained."""

from typing import Any

import pytest

from support.decoders import LAYERS, VOCAB, decoder
from zeropp import hf


@pytest.mark.parametrize(
    ("name", "width"),
    [("llama", 3 * 64), ("qwen3", 3 * 64), ("gpt2", 2 * 128), ("mixtral", 2 * 3 * 64 + 4)],
)
def test_a_decoder_is_described_by_what_it_holds(name: str, width: int) -> None:
    model = decoder(name)
    shape = hf.decoder_shape(model, hf.blocks(model))
    own = model.num_parameters()
    tied = VOCAB * 32 if model.config.tie_word_embeddings else 0
    counts = shape.parameters
    assert counts["embedding"] + LAYERS * counts["layer"] + counts["head"] == own + tied
    assert shape.trained == counts
    assert abs(shape.inner + shape.ffn - width) <= 2
    assert shape.queries + shape.keys_and_values == (96 if name == "gpt2" else 64)


def test_of_an_adapted_decoder_the_adapters_are_trained() -> None:
    model: Any = decoder("llama")
    adapted = hf.adapt(model, rank=2, alpha=4, targets=["q_proj"])
    shape = hf.decoder_shape(adapted, hf.blocks(adapted))
    assert shape.trained == {"embedding": 0, "layer": 2 * 64, "head": 0}
    assert shape.share("layer") < 0.02


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("llama", {"LlamaDecoderLayer"}),
        ("gemma3", {"Gemma3DecoderLayer sliding_attention", "Gemma3DecoderLayer full_attention"}),
    ],
)
def test_layers_that_are_alike_are_of_a_kind(name: str, kinds: set[str]) -> None:
    options = {"layer_types": ["sliding_attention", "full_attention"] * 2}
    model = decoder(name, **(options if name == "gemma3" else {}))
    first, *between, last = hf.kinds(model)
    assert (first, last) == ("opening", "closing")
    assert len(between) == LAYERS
    assert set(between) == kinds


def test_unlike_layers_of_a_class_are_told_apart() -> None:
    model = hf.adapt(decoder("llama"), rank=2, alpha=4, targets=["2.self_attn.q_proj"])
    assert len(set(hf.kinds(model))) == 4


def test_layers_without_attention_are_to_be_measured() -> None:
    model = decoder("llama")
    model.config.layer_types = ["full_attention", "linear_attention"] * 2
    with pytest.raises(ValueError, match="its layers are linear_attention; measure it by"):
        hf.decoder_shape(model, hf.blocks(model))

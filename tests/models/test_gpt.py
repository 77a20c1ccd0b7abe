"""The decoder as blocks: what it computes, what it costs, and how fresh weights come about."""

import dataclasses
import itertools
import math
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zeropp.ir.model import SIZES, GPTConfig
from zeropp.models import gpt_blocks, init_block
from zeropp.models.gpt import rotary_angles, rotate

GPT2 = GPTConfig(vocab_size=61, seq_len=12, layers=3, hidden=24, heads=4)
LLAMA = dataclasses.replace(
    GPT2, kv_heads=2, positions="rotary", norm="rmsnorm", activation="swiglu", bias=False
)
MIXED = dataclasses.replace(GPT2, kv_heads=1, ffn=40, norm="rmsnorm", activation="swiglu")
CONFIGS = [pytest.param(GPT2, id="gpt2"), pytest.param(LLAMA, id="llama"), pytest.param(MIXED)]
every_config = pytest.mark.parametrize("config", CONFIGS)


def fresh(config: GPTConfig, seed: int = 0) -> nn.Sequential:
    blocks = gpt_blocks(config)
    for index, block in enumerate(blocks):
        init_block(block, config, index, seed)
    return nn.Sequential(*blocks)


def tokens_for(config: GPTConfig, batch: int = 2, length: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (batch, length or config.seq_len)
    return torch.randint(0, config.vocab_size, shape, generator=generator)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@every_config
@pytest.mark.parametrize("length", [1, 5, 12])
def test_every_block_maps_the_shape_it_states(config: GPTConfig, length: int) -> None:
    embedding, *layers, head = fresh(config)
    x = embedding(tokens_for(config, length=length))
    assert x.shape == (2, length, config.hidden)
    assert len(layers) == config.layers
    for layer in layers:
        x = layer(x)
        assert x.shape == (2, length, config.hidden)
    assert head(x).shape == (2, length, config.vocab_size)


def test_a_sequence_beyond_seq_len_is_refused() -> None:
    with pytest.raises(ValueError, match=r"seq_len is 12, got a sequence of 13 tokens"):
        fresh(LLAMA)(tokens_for(LLAMA, length=13))


@every_config
def test_a_later_token_changes_no_earlier_logit(config: GPTConfig) -> None:
    model, tokens = fresh(config), tokens_for(config)
    changed = tokens.clone()
    changed[:, 7] = (tokens[:, 7] + 1) % config.vocab_size
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :7], after[:, :7], rtol=0, atol=0)
    assert (before[:, 7:] != after[:, 7:]).any(dim=-1).all()


@every_config
def test_a_short_sequence_gives_the_logits_of_a_long_ones_start(config: GPTConfig) -> None:
    model, tokens = fresh(config), tokens_for(config)
    torch.testing.assert_close(model(tokens[:, :5]), model(tokens)[:, :5], rtol=1e-4, atol=1e-6)


def test_grouped_heads_equal_full_heads_with_keys_and_values_repeated() -> None:
    full_config = dataclasses.replace(LLAMA, kv_heads=None)
    grouped, full = fresh(LLAMA)[1].attention, fresh(full_config)[1].attention
    size, group = LLAMA.head_size, LLAMA.heads // LLAMA.num_kv_heads
    q, k, v = grouped.qkv.weight.detach().split(grouped.widths)
    repeated = [
        part.unflatten(0, (-1, size)).repeat_interleave(group, dim=0).flatten(0, 1)
        for part in (k, v)
    ]
    with torch.no_grad():
        full.qkv.weight.copy_(torch.cat((q, *repeated)))
        full.out.weight.copy_(grouped.out.weight)
    x = torch.randn(2, 12, LLAMA.hidden, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(grouped(x), full(x))


def test_rotary_scores_depend_on_the_distance_only() -> None:
    generator = torch.Generator().manual_seed(3)
    q, k = torch.randn(2, 16, generator=generator)
    cos, sin = rotary_angles(40, 16, 10_000.0, torch.device("cpu"))
    queries, keys = rotate(q.expand(40, 16), cos, sin), rotate(k.expand(40, 16), cos, sin)
    scores = queries @ keys.T
    torch.testing.assert_close(scores[:-9, :-9], scores[9:, 9:], rtol=1e-4, atol=1e-5)
    assert scores[0].std() > 0.1
    torch.testing.assert_close(queries[0], q)
    torch.testing.assert_close(queries.norm(dim=-1), q.norm().expand(40))


def test_rotary_angles_stay_exact_in_a_bf16_model() -> None:
    long = dataclasses.replace(LLAMA, seq_len=2048, layers=1)
    model, tokens = fresh(long), tokens_for(long, batch=1)
    expected = model(tokens)
    actual = model.bfloat16()(tokens).float()
    # bf16 keeps 8 bits; positions rounded to bf16 would be up to 4 off at the end.
    assert (actual - expected).norm() / expected.norm() < 0.02


@pytest.mark.parametrize("meta_built", [GPT2, LLAMA])
def test_blocks_from_meta_compute_the_same(meta_built: GPTConfig) -> None:
    with torch.device("meta"):
        blocks = gpt_blocks(meta_built)
    for index, block in enumerate(blocks):
        init_block(block.to_empty(device="cpu"), meta_built, index, seed=0)
    tokens = tokens_for(meta_built)
    assert torch.equal(nn.Sequential(*blocks)(tokens), fresh(meta_built)(tokens))


def test_a_build_on_meta_allocates_nothing_and_still_gives_shapes() -> None:
    config = SIZES["llama-8b"]
    with torch.device("meta"):
        blocks = gpt_blocks(config)
        x = torch.empty(1, 64, dtype=torch.long)
    for block in blocks:
        assert all(t.is_meta for t in (*block.parameters(), *block.buffers()))
        x = block(x)
    assert x.is_meta
    assert x.shape == (1, 64, config.vocab_size)


@every_config
def test_fresh_weights_do_not_depend_on_order_or_company(config: GPTConfig) -> None:
    expected = fresh(config, seed=5).state_dict()
    torch.manual_seed(99)
    blocks = gpt_blocks(config)
    for index in reversed(range(len(blocks))):
        torch.rand(3)
        init_block(blocks[index], config, index, seed=5)
    alone = gpt_blocks(config)[2]
    init_block(alone, config, 2, seed=5)
    actual = nn.Sequential(*blocks).state_dict()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    for name, value in alone.state_dict().items():
        assert torch.equal(value, expected[f"2.{name}"])


def test_fresh_weights_in_bf16_are_those_in_fp32_rounded() -> None:
    rounded = gpt_blocks(LLAMA)[1].bfloat16()
    init_block(rounded, LLAMA, 1, seed=0)
    for name, value in fresh(LLAMA)[1].state_dict().items():
        assert torch.equal(rounded.state_dict()[name], value.bfloat16())


def test_fresh_weights_differ_by_seed_and_by_block() -> None:
    def first_weight(seed: int, index: int) -> Tensor:
        return fresh(GPT2, seed)[index].attention.qkv.weight

    assert not torch.equal(first_weight(0, 1), first_weight(0, 2))
    assert not torch.equal(first_weight(0, 1), first_weight(1, 1))
    assert not torch.equal(first_weight(0, 1), first_weight(2**32, 1))


def test_fresh_weights_have_gpt2s_scales() -> None:
    config = dataclasses.replace(GPT2, hidden=256)
    embedding, layer, *_, head = fresh(config)
    narrow = 0.02 / math.sqrt(2 * config.layers)
    for weight, std in (
        (embedding.token.weight, 0.02),
        (head.linear.weight, 0.02),
        (layer.attention.qkv.weight, 0.02),
        (layer.feed_forward.up.weight, 0.02),
        (layer.attention.out.weight, narrow),
        (layer.feed_forward.down.weight, narrow),
    ):
        assert weight.std().item() == pytest.approx(std, rel=0.03)
        assert abs(weight.mean().item()) < std / 20
    for name, parameter in layer.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        elif "norm" in name:
            assert (parameter == 1).all()


def test_init_refuses_what_it_cannot_fill() -> None:
    with torch.device("meta"):
        on_meta = gpt_blocks(GPT2)[0]
    with pytest.raises(ValueError, match=r"token.weight is on meta; call block.to_empty"):
        init_block(on_meta, GPT2, 0, seed=0)
    with pytest.raises(ValueError, match=r"index must be from 0 to 4, got 5"):
        init_block(gpt_blocks(GPT2)[0], GPT2, 5, seed=0)
    with pytest.raises(ValueError, match=r"is a Conv1d, which init_block does not know"):
        init_block(nn.Sequential(nn.Conv1d(1, 1, 1)), GPT2, 0, seed=0)


@every_config
def test_a_fresh_model_knows_nothing_and_every_parameter_learns(config: GPTConfig) -> None:
    model, tokens = fresh(config), tokens_for(config, batch=16)
    logits = model(tokens[:, :-1])
    loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(config.vocab_size), rel=0.01)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


EVERY_MIX = [
    dataclasses.replace(
        GPT2, positions=positions, norm=norm, activation=activation, bias=bias, **widths
    )
    for positions, norm, activation, bias, widths in itertools.product(
        ("learned", "rotary"),
        ("layernorm", "rmsnorm"),
        ("gelu", "swiglu"),
        (True, False),
        ({}, {"kv_heads": 2, "ffn": 40}),
    )
]


@pytest.mark.parametrize("config", EVERY_MIX)
def test_the_formula_counts_the_parameters_of_each_block(config: GPTConfig) -> None:
    embedding, *layers, head = gpt_blocks(config)
    assert count(embedding) == config.embedding_parameters
    assert {count(layer) for layer in layers} == {config.layer_parameters}
    assert count(head) == config.head_parameters
    assert config.num_blocks == len(layers) + 2
    assert config.num_parameters == sum(map(count, (embedding, *layers, head)))


@pytest.mark.parametrize("name", SIZES)
def test_the_formula_holds_for_every_named_size(name: str) -> None:
    config = SIZES[name]
    with torch.device("meta"):
        assert config.num_parameters == sum(map(count, gpt_blocks(config)))


# The GPT sizes are named after models whose head shares the token table; ours does not, so the
# head's weight is left out for those. With it, 1.5b is 9 % and gpt2-124m 31 % above its name.
@pytest.mark.parametrize(
    ("name", "tied", "named"),
    [
        ("gpt2-124m", True, 124e6),
        ("1.5b", True, 1.5e9),
        ("6.2b", True, 6.2e9),
        ("14.6b", True, 14.6e9),
        ("llama-8b", False, 8e9),
        ("llama-70b", False, 70e9),
    ],
)
def test_a_size_is_near_its_name(name: str, tied: bool, named: float) -> None:
    config = SIZES[name]
    head = config.hidden * config.vocab_size if tied else 0
    assert config.num_parameters - head == pytest.approx(named, rel=0.015)
    if name in ("6.2b", "14.6b", "llama-8b"):
        assert config.num_parameters == pytest.approx(named, rel=0.06)


def test_llama_has_exactly_the_published_counts() -> None:
    assert SIZES["llama-8b"].num_parameters == 8_030_261_248
    assert SIZES["llama-70b"].num_parameters == 70_553_706_496


def test_sizes_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        SIZES["toy"] = GPT2  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        GPT2.layers = 5  # type: ignore[misc]


def test_defaults_follow_the_activation() -> None:
    assert GPT2.ffn_size == 96
    assert dataclasses.replace(GPT2, activation="swiglu").ffn_size == 64
    assert dataclasses.replace(GPT2, hidden=4096, activation="swiglu").ffn_size == 10_944
    assert dataclasses.replace(GPT2, activation="swiglu", ffn=7).ffn_size == 7
    assert GPT2.num_kv_heads == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 0}, "vocab_size must be a whole number of at least 1, got 0"),
        ({"seq_len": -1}, "seq_len must be a whole number of at least 1, got -1"),
        ({"layers": 0}, "layers must be a whole number of at least 1, got 0"),
        ({"layers": 2.5}, "layers must be a whole number of at least 1, got 2.5"),
        ({"hidden": True}, "hidden must be a whole number of at least 1, got True"),
        ({"kv_heads": 0}, "kv_heads must be a whole number of at least 1, got 0"),
        ({"ffn": 0}, "ffn must be a whole number of at least 1, got 0"),
        ({"hidden": 25}, "hidden must be a multiple of heads (4), got 25; use hidden 28"),
        ({"kv_heads": 3}, "kv_heads must divide heads (4), got 3"),
        ({"kv_heads": 8}, "kv_heads must divide heads (4), got 8"),
        ({"hidden": 12, "positions": "rotary"}, "hidden / heads must be even with rotary"),
        ({"positions": "alibi"}, "positions must be learned or rotary, got 'alibi'"),
        ({"norm": "batch"}, "norm must be layernorm or rmsnorm, got 'batch'"),
        ({"activation": "relu"}, "activation must be gelu or swiglu, got 'relu'"),
        ({"rope_theta": 0.0}, "rope_theta must be a finite number above 0, got 0.0"),
        ({"norm_eps": math.nan}, "norm_eps must be a finite number above 0, got nan"),
    ],
)
def test_a_bad_config_names_field_and_fix(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole text is checked below
        dataclasses.replace(GPT2, **change)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_sizes_and_counts_need_no_torch() -> None:
    code = (
        "import sys, zeropp.models as m; m.SIZES['1.5b'].num_parameters; "
        "assert 'torch' not in sys.modules; m.gpt_blocks; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_unknown_name_is_an_attribute_error() -> None:
    import zeropp.models

    assert set(zeropp.models.__all__) == {"SIZES", "GPTConfig", "gpt_blocks", "init_block"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        zeropp.models.nothing  # noqa: B018 - the access is the test

"""Profiles: links, files, and the analytic model against published formulas."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zeropp.ir.model import SIZES, GPTConfig
from zeropp.ir.program import Recompute
from zeropp.planner.analytic import Efficiency, Hardware, analytic_profile
from zeropp.planner.decoder import DecoderShape, embedding, head, layer
from zeropp.planner.hardware import GPUS
from zeropp.planner.link import Group, Link, steady
from zeropp.planner.profile import Block, Profile, Setting
from zeropp.planner.profile_file import read_profile, write_profile

DGX = Hardware("A100-80G", "nvlink", "ib-200")
GPT = GPTConfig(50_304, 1024, layers=4, hidden=1024, heads=16)
SHAPE = DecoderShape.of(GPT)


def profile() -> Profile:
    return analytic_profile(GPT, DGX, 1024, [1, 2])


# links


def test_a_measured_group_gives_its_own_times_back() -> None:
    link = Link(1e-5, 1e10, ((1e6, 0.001), (1e9, 0.2)), ((1e6, 0.002), (1e9, 0.3)), 8, 4)
    assert link.all_gather(1e6, Group(8, 4)) == 0.001
    assert link.all_gather(1e9, Group(8, 4)) == pytest.approx(0.2)
    assert link.reduce_scatter(1e9, Group(8, 4)) == pytest.approx(0.3)
    assert link.all_gather((1e6 + 1e9) / 2, Group(8, 4)) == pytest.approx((0.001 + 0.2) / 2)
    assert link.all_gather(2e9, Group(8, 4)) == pytest.approx(0.4)  # at the largest size's rate
    assert link.all_gather(10.0, Group(8, 4)) == 0.001


def test_a_ring_of_other_ranks_sends_d_minus_1_over_d() -> None:
    link = steady(latency=0.0, bandwidth=1e9)
    assert link.all_gather(8e9, Group(1)) == 0
    assert link.all_gather(8e9, Group(2)) == pytest.approx(4)
    assert link.all_gather(8e9, Group(8)) == pytest.approx(7)
    assert link.all_gather(8e9, Group(8, per_node=4)) == pytest.approx(7 / 4)
    assert link.transfer(8e9) == 8
    slow = steady(latency=0.001, bandwidth=1e9)
    assert slow.all_gather(0, Group(10)) == pytest.approx(0.001 + 8 * 0.001)


@given(st.integers(1, 64), st.integers(1, 64), st.floats(0, 1e11), st.floats(0, 1e11))
def test_more_ranks_and_more_bytes_never_take_less(
    one: int, other: int, size: float, more: float
) -> None:
    link = steady(1e-5, 1e9)
    low, high = sorted((one, other))
    small, large = sorted((size, more))
    assert link.all_gather(small, Group(low)) <= link.all_gather(large, Group(high)) * (1 + 1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latency": -1}, "latency must be 0 or more"),
        ({"bandwidth": 0}, "bandwidth must be above 0"),
        ({"ranks": 1}, "ranks must be at least 2"),
        ({"per_node": 0}, "per_node must be at least 1"),
        ({"gather": ()}, "gather must list pairs"),
        ({"reduce": ((2.0, 1.0), (1.0, 2.0))}, "reduce must list each size once"),
    ],
)
def test_bad_links_name_their_field(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(steady(0, 1), **changes)


# the file


def test_a_profile_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = profile()
    write_profile(made, tmp_path / "profile.toml")
    assert read_profile(tmp_path / "profile.toml") == made
    alone = replace(made, inside=None, between=None)
    write_profile(alone, tmp_path / "alone.toml")
    assert read_profile(tmp_path / "alone.toml") == alone


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seq_len = 1024", "", "missing field 'seq_len'"),
        ("seq_len = 1024", "seq_len = 0", "seq_len must be a whole number"),
        ("seq_len = 1024", "speed = 1\nseq_len = 1024", "unknown field speed"),
        ("latency =", "lag =", "unknown field inside.lag; use latency"),
        ('recompute = "full"', 'recompute = "all"', "times.recompute must be one of none"),
        ("forward =", "backwards =", "unknown field times.backwards"),
        ("memory =", "memory = -1 #", "device.memory must be above 0"),
        ("seq_len = 1024", "seq_len", "cannot read"),
    ],
)
def test_bad_profiles_name_file_and_field(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "profile.toml"
    write_profile(profile(), path)
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")
    with pytest.raises(ValueError, match=f"profile: .*{message}"):
        read_profile(path)


def test_a_kind_that_is_not_measured_is_named() -> None:
    made = profile()
    setting = Setting(1, Recompute.NONE)
    blocks = {setting: {k: b for k, b in made.blocks[setting].items() if k != "head"}}
    with pytest.raises(ValueError, match="no 'head' at micro_batch_size 1, recompute none"):
        replace(made, blocks=blocks)
    with pytest.raises(ValueError, match="parameters must state 0 or more for the kind 'head'"):
        replace(made, parameters={"embedding": 1, "layer": 1})
    with pytest.raises(ValueError, match="forward must be above 0 seconds"):
        Block(0.0, 1, 1, 1, 1, 1)


# the analytic model


def test_a_gpt_layer_has_the_published_flops_and_bytes() -> None:
    """Zero bubble, table 1: F 24 sbh^2 + 4 s^2bh, W 24 sbh^2; attention is causal here."""
    s, b, h = 1024, 2, 1024
    plain, full = layer(SHAPE, b, s), layer(SHAPE, b, s, Recompute.FULL)
    assert plain.backward is not None
    assert full.backward is not None
    assert plain.forward.products == 24 * s * b * h**2
    assert plain.forward.attention == 2 * s**2 * b * h
    assert plain.backward.products == 24 * s * b * h**2
    assert plain.backward.attention == 5 * s**2 * b * h
    assert full.backward.products == 48 * s * b * h**2
    assert plain.weight.products == 24 * s * b * h**2
    assert plain.flops == 72 * s * b * h**2 * (1 + s / (6 * h))
    assert plain.until_backward == 32 * s * b * h
    assert plain.until_weight == 32 * s * b * h
    assert full.until_backward == 2 * s * b * h


def test_recomputing_keeps_less_and_takes_longer() -> None:
    kept = [layer(DecoderShape.of(SIZES["llama-8b"]), 1, 4096, how) for how in Recompute]
    until_backward = [k.until_backward for k in kept]
    assert until_backward == sorted(until_backward, reverse=True)
    assert len({k.until_weight for k in kept}) == 1
    assert len({k.until_backward + k.workspace for k in kept}) == 1
    made = analytic_profile(SIZES["llama-8b"], DGX, 4096, [1])
    times = [made.blocks[Setting(1, how)]["layer"].backward for how in Recompute]
    assert times == sorted(times)


def test_attention_without_flash_keeps_its_scores() -> None:
    flash, scores = layer(SHAPE, 1, 1024), layer(SHAPE, 1, 1024, flash=False)
    assert scores.until_backward - flash.until_backward == 2 * 16 * 1024**2
    assert scores.forward.attention == 2 * flash.forward.attention


def test_head_and_embedding_are_their_own() -> None:
    last, first = head(SHAPE, 1, 1024), embedding(SHAPE, 1, 1024)
    assert last.forward.products == 2 * 1024 * 1024 * 50_304
    assert last.until_backward > 4 * 1024 * 50_304
    assert first.forward.products == 0
    made = profile()
    assert made.blocks[Setting(1)]["embedding"].backward == 0
    assert made.blocks[Setting(1)]["head"].message == 0
    assert made.num_parameters == GPT.num_parameters


def test_grouped_queries_and_gates_are_counted_like_the_model_counts_them() -> None:
    shape = SIZES["llama-70b"]
    products = layer(DecoderShape.of(shape), 1, 4096).forward.products
    weights = shape.layer_parameters - 2 * shape.hidden  # all but the norms
    assert products == 2 * 4096 * weights
    assert shape.num_parameters == pytest.approx(70.55e9, rel=1e-3)


@pytest.mark.parametrize("gpu", GPUS)
def test_every_gpu_has_a_profile_that_states_its_assumptions(gpu: str) -> None:
    inside = "nvlink" if GPUS[gpu].nvlink else "pcie4"
    made = analytic_profile(GPT, Hardware(gpu, inside, "eth-100"), 1024, [1])
    assert made.device.memory == GPUS[gpu].memory
    assert any(gpu in line and "65% of" in line for line in made.assumptions)
    assert any("1 x eth-100 of a node's 8 GPUs" in line for line in made.assumptions)


def test_a_nodes_cards_are_shared_by_its_gpus() -> None:
    def rate(**kwargs: object) -> float:
        between = analytic_profile(GPT, replace(DGX, **kwargs), 1024, [1]).between
        assert between is not None
        return between.bandwidth

    assert rate() == pytest.approx(0.8 * 25e9)  # one card for each GPU
    assert rate(cards=1) == pytest.approx(0.8 * 25e9 / 8)
    assert rate(between="eth-100") == pytest.approx(0.8 * 12.5e9 / 8)
    assert rate(between="2.5", cards=8) == pytest.approx(0.8 * 2.5e9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpu": "A1000"}, "gpu: no 'A1000'; use one of A100-40G"),
        ({"between": "ib-7"}, "between: no link 'ib-7'; use ib-100"),
        ({"inside": "fast"}, "inside: no link 'fast'; use nvlink, pcie3"),
        ({"gpu": "RTX4090"}, "inside: RTX4090 has no NVLink; use one of pcie3"),
        ({"gpus_per_node": 0}, "gpus_per_node and cards must be at least 1"),
    ],
)
def test_unknown_hardware_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        analytic_profile(GPT, replace(DGX, **changes), 1024, [1])


def test_efficiency_is_a_share() -> None:
    with pytest.raises(ValueError, match=r"products must be above 0 and at most 1, got 1\.5"):
        Efficiency(products=1.5)
    slow = analytic_profile(GPT, DGX, 1024, [4], efficiency=Efficiency(products=0.3))
    fast = analytic_profile(GPT, DGX, 1024, [4])
    assert slow.blocks[Setting(4)]["layer"].weight > fast.blocks[Setting(4)]["layer"].weight

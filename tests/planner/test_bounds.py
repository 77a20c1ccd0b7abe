"""Bounds never cut off a plan: no simulation is below them."""

from dataclasses import replace

import pytest

from support.problems import CHUNKS, random_problem
from zeropp.ir import Placement, Shape
from zeropp.planner import Problem
from zeropp.planner.bounds import (
    held_time_bound,
    made_memory_bound,
    made_time_bound,
    memory_bound,
    order_time_bound,
    time_bound,
)
from zeropp.planner.layout import Layout, Links
from zeropp.planner.link import steady
from zeropp.planner.order import orders
from zeropp.planner.predict import made_order, predict
from zeropp.planner.pricing import cut, price
from zeropp.planner.profile import Block, Device, Precision, Profile, Setting
from zeropp.planner.search import layouts

SLACK = 1 + 1e-9


@pytest.mark.parametrize("seed", range(200, 206))
def test_no_plan_is_below_its_bounds(seed: int) -> None:
    problem = random_problem(seed)
    for layout in layouts(problem, CHUNKS):
        priced = price(problem, layout, cut(problem, layout))
        for order in orders(layout.placement, priced.num_microbatches):
            made = made_order(priced, order)
            found = predict(priced, order, made)
            case = f"{layout} {order}"
            assert time_bound(priced) <= found.step_s * SLACK, case
            assert order_time_bound(priced, order) <= found.step_s * SLACK, case
            assert made_time_bound(priced, order, made) <= found.step_s * SLACK, case
            assert held_time_bound(priced, found.peak_bytes) <= found.step_s * SLACK, case
            assert memory_bound(priced) <= found.peak_bytes * SLACK, case
            assert memory_bound(priced, order) <= found.peak_bytes * SLACK, case
            assert made_memory_bound(priced, order, made) <= found.peak_bytes * SLACK, case


def cluster(gpus: int, node: int) -> Problem:
    """Inside a node 100 bytes/s, between nodes 1 byte/s for each rank; no latency."""
    block = Block(1, 1, 1, 1, 1, message=100)
    profile = Profile(
        Device("test", 1e9),
        1,
        ("a",) * 8,
        {"a": 1},
        {Setting(1): {"a": block}},
        steady(0, 100),
        steady(0, 1),
    )
    return Problem(profile, gpus, node, 64)


@pytest.mark.parametrize(
    ("P", "shards", "copies", "gather", "reduce"),
    [
        (2, 8, 1, 0.875, 0.875),  # inside a node
        (2, 4, 2, 0.75, 0.75 + 2 * 0.125),  # copies too: a quarter, half of it each way
        (1, 16, 1, 93.75 / 8, 93.75 / 8),  # across nodes, which eight ranks leave together
        (1, 8, 2, 0.875, 0.875 + 2 * 6.25),  # copies across nodes, an eighth for each rank alone
    ],
)
def test_shard_groups_fill_nodes_first(
    P: int, shards: int, copies: int, gather: float, reduce: float
) -> None:
    layout = Layout(Placement(Shape.LOOP, P, 1), shards, copies, Setting(1))
    links = Links(cluster(16, 8), layout)
    assert links.gather(100) == pytest.approx(gather)
    assert links.reduce(100) == pytest.approx(reduce)


def test_what_is_frozen_is_kept_and_gathered_and_no_more() -> None:
    problem, layout = cluster(4, 8), Layout(Placement(Shape.LOOP, 2, 1), 2, 1, Setting(1))
    frozen = dict.fromkeys(problem.profile.parameters, 0)
    profile = replace(problem.profile, optimizer=1.0, trained=frozen)
    alike = replace(problem, profile=replace(profile, trained={}))
    problem = replace(problem, profile=profile)
    none, every = (price(p, layout, cut(p, layout)).costs for p in (problem, alike))
    assert (none.parameters, none.gathered, none.gather) == (
        every.parameters,
        every.gathered,
        every.gather,
    )
    gone = (*none.reduce, *none.gradients, *none.optimizer_state, *none.reduce_staging)
    assert not any((*gone, none.optimizer))
    assert all((*every.reduce, *every.gradients, *every.optimizer_state, every.optimizer))


def test_one_data_rank_in_the_parameters_precision_keeps_no_copies() -> None:
    problem, layout = cluster(2, 8), Layout(Placement(Shape.LOOP, 2, 1), 1, 1, Setting(1))
    mixed = price(problem, layout, cut(problem, layout)).costs
    profile = replace(problem.profile, precision=Precision(compute=4.0))
    whole = replace(problem, profile=profile)
    plain = price(whole, layout, cut(whole, layout)).costs
    assert (mixed.gathered, mixed.gather_staging, mixed.reduce_staging) == (
        (8, 8),
        (8, 8),
        (16, 16),
    )
    assert (plain.gathered, plain.gather_staging, plain.reduce_staging) == ((0, 0),) * 3
    assert (mixed.optimizer_state, plain.optimizer_state) == ((48, 48), (32, 32))
    assert mixed.gradients == plain.gradients == (16, 16)


def test_hops_cross_nodes_only_where_ranks_do() -> None:
    four = Layout(Placement(Shape.LOOP, 4, 2), 4, 1, Setting(1))
    links = Links(cluster(16, 8), four)
    seconds = [links.hop(stage, 100).transfer for stage in range(8)]
    assert seconds == [1, 100, 1, 100, 1, 100, 1, 0]  # ranks 0 1 | 2 3, and around to 0
    vee = Links(cluster(16, 8), Layout(Placement(Shape.VEE, 4, 2), 4, 1, Setting(1)))
    assert vee.hop(3, 100) == (0, 0, 0)

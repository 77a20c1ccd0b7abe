"""The planner against every plan, and against common sense."""

from dataclasses import replace
from itertools import pairwise

import pytest

from support.problems import random_problem, tightened
from zeropp.build import program_of
from zeropp.ir import stage_blocks
from zeropp.ir.model import SIZES
from zeropp.ir.program import Policy
from zeropp.planner import Problem, best_plan, over_unit_sizes
from zeropp.planner.analytic import Hardware, analytic_profile
from zeropp.planner.link import Link
from zeropp.planner.order import Order, orders
from zeropp.planner.planner import plan_of
from zeropp.planner.predict import made_order, predict, schedule_of
from zeropp.planner.search import Search, Wanted

GIB = 2**30


def step(problem: Problem) -> float:
    best = Search(problem).best()
    return best.step_s if best is not None else float("inf")


def faster(link: Link | None, times: float) -> Link | None:
    if link is None:
        return None
    return replace(
        link,
        latency=link.latency / times,
        bandwidth=link.bandwidth * times,
        gather=tuple((size, seconds / times) for size, seconds in link.gather),
        reduce=tuple((size, seconds / times) for size, seconds in link.reduce),
    )


@pytest.mark.parametrize("seed", range(100, 109))
def test_no_plan_is_better(seed: int) -> None:
    problem, best = tightened(random_problem(seed), (0.02, 0.2, 1.0)[seed % 3])
    assert step(problem) == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_more_memory_never_gives_a_slower_plan(seed: int) -> None:
    problem = random_problem(seed)
    steps = [step(replace(problem, memory=size)) for size in (2e7, 5e7, 1e8, 2e8, 4e8, 1e9)]
    assert all(more <= less * (1 + 1e-12) for less, more in pairwise(steps))  # sums of one time


@pytest.mark.parametrize("seed", range(8))
def test_a_faster_link_never_gives_a_slower_plan(seed: int) -> None:
    problem, steps = random_problem(seed), []
    for times in (1, 1.5, 3, 10):
        profile = problem.profile
        links = {name: faster(getattr(profile, name), times) for name in ("inside", "between")}
        steps.append(step(replace(problem, profile=replace(profile, **links))))
    assert steps == sorted(steps, reverse=True)


def llama_8b(between: str, gpus: int, batch: int, gpu: str = "A100-80G") -> Problem:
    hardware = Hardware(gpu, "nvlink", between)
    return Problem(analytic_profile(SIZES["llama-8b"], hardware, 4096, [1, 2]), gpus, 8, batch)


def test_a_model_that_fits_one_gpu_with_a_fast_link_is_not_pipelined() -> None:
    profile = analytic_profile(
        SIZES["gpt2-124m"], Hardware("A100-80G", "nvlink", "ib-200"), 1024, [1, 4, 8]
    )
    answer = best_plan(Problem(profile, 8, 8, 64))
    assert answer.plan.pp_size == 1
    assert answer.family in ("plain FSDP", "FSDP in units")
    assert answer.reasons[0].startswith("Pipelining does not pay: the best with it (")


def test_a_slow_link_between_nodes_gives_pipelines_over_it_and_shards_inside() -> None:
    answer = best_plan(llama_8b("eth-10", gpus=16, batch=128))
    assert (answer.plan.pp_size, answer.plan.dp_shard, answer.plan.dp_replicate) == (2, 8, 1)
    assert answer.reasons[0].startswith("Pipelining pays: ")


def of_seam(seam: str) -> Wanted:
    return lambda layout, order: order.seam == seam


def test_the_plan_runs_the_schedule_that_was_simulated() -> None:
    problem = llama_8b("eth-25", gpus=16, batch=64)
    search = Search(problem)
    answer = best_plan(problem)
    carried = [search.best(of_seam(seam)) for seam in ("strict", "eager")]
    for found in (*carried, answer.best):
        assert found is not None
        plan = plan_of(found)
        simulated = schedule_of(found.priced, found.order, found.priced.num_microbatches)
        assert program_of(plan).schedule == simulated
        assert plan.world_size == 16
        assert stage_blocks(len(problem.profile.kinds), plan.pp_size * plan.num_chunks, plan.split)
        assert plan.num_microbatches * plan.dp_size * answer.micro_batch_size == 64


def test_every_order_is_made_for_the_gathers_of_its_own_layout() -> None:
    problem, seen = random_problem(103), 0
    search = Search(problem)
    for priced in search.layouts:
        batch = priced.num_microbatches
        for order in orders(priced.layout.placement, batch):
            if order.seam in ("strict", "eager") and order.gathered == 1:
                made = search._make(priced, order).schedules[-1]
                assert made == schedule_of(priced, order, batch)
                seen += priced.made_for(order) != priced.made_for(replace(order, shard=Policy.STEP))
    assert seen > 10


def test_a_plan_of_frozen_weights_says_that_splitting_pays_nothing() -> None:
    problem = random_problem(0)
    blocks = {
        setting: {kind: replace(block, weight=0.02 * block.weight) for kind, block in kinds.items()}
        for setting, kinds in problem.profile.blocks.items()
    }
    frozen = replace(problem, profile=replace(problem.profile, blocks=blocks))
    assert any("Splitting W from B pays nothing" in line for line in best_plan(frozen).reasons)
    assert not any("Splitting W" in line for line in best_plan(problem).reasons)


def test_the_answer_states_its_figures() -> None:
    answer = best_plan(llama_8b("eth-25", gpus=16, batch=64))
    found, predicted = answer.prediction, answer.predicted()
    assert predicted["tokens_per_s"] == pytest.approx(64 * 4096 / found.step_s)
    assert answer.mfu is not None
    assert 0.3 < answer.mfu < 0.65
    assert len(found.memory) == len(found.gathers) == answer.plan.pp_size
    assert max(sum(rank.values()) for rank in found.memory) == pytest.approx(found.peak_bytes)
    assert found.peak_bytes <= answer.problem.usable
    assert [rival.step_s for rival in answer.rivals] == sorted(r.step_s for r in answer.rivals)
    assert all(rival.step_s >= answer.best.step_s for rival in answer.rivals)
    text = " ".join(answer.reasons)
    assert "Limited by compute" in text
    assert "GiB usable" in text


def test_a_split_is_kept_or_refused() -> None:
    problem = replace(llama_8b("eth-25", gpus=16, batch=64), split=(10, 24))
    answer = best_plan(problem)
    assert answer.plan.split == (10, 24)
    assert answer.plan.pp_size * answer.plan.num_chunks == 2
    assert answer.best.step_s > step(replace(problem, split=None))
    with pytest.raises(ValueError, match="split must list positive sizes that sum"):
        replace(problem, split=(10, 20))
    with pytest.raises(ValueError, match="split: 16 GPUs make no 7 stages; list 8, or"):
        best_plan(replace(problem, split=(4, 5, 5, 5, 5, 5, 5)))


def test_larger_units_gather_less_and_hold_more() -> None:
    problem = llama_8b("eth-25", gpus=16, batch=256)
    four = Search(problem).best(lambda layout, order: layout.placement.num_chunks == 4)
    points = over_unit_sizes(replace(best_plan(problem), best=four))
    gathers = [max(point.prediction.gathers) for point in points]
    assert [point.unit_size for point in points] == sorted({p.unit_size for p in points})
    assert gathers == sorted(gathers, reverse=True)
    assert points[-1].prediction.peak_bytes >= points[0].prediction.peak_bytes


@pytest.mark.parametrize(("seam", "exact"), [("drain", 1e-9), ("carry", 0.01)])
def test_a_shorter_batch_extends_to_a_longer_one(seam: str, exact: float) -> None:
    problem = llama_8b("ib-200", gpus=8, batch=768)
    search = Search(problem, chunks=(2,))
    priced = next(p for p in search.layouts if p.layout.pp_size == 4 and p.num_microbatches == 384)
    order = Order("zeropp", unit_size=8, seam=seam)
    short = predict(priced, order, made_order(priced, order, most_actions=1_000))
    full = predict(priced, order, made_order(priced, order, most_actions=10_000))
    assert (short.extended, full.extended) == (True, False)
    assert short.step_s == pytest.approx(full.step_s, rel=exact)
    assert short.gathers == pytest.approx(full.gathers, rel=exact)
    assert short.wire_bytes == pytest.approx(full.wire_bytes, rel=exact)


IMPOSSIBLE = {
    "memory": (
        llama_8b("ib-200", 8, 64),
        {"memory": 2.0 * GIB},
        r"memory: no plan fits 2.0 GiB on each of 8 GPUs; use memory of [\d.]+ GiB or more",
    ),
    "nodes": (
        llama_8b("ib-200", 8, 64),
        {"gpus": 12},
        r"gpus must be a multiple of gpus_per_node \(8\), got 12; use 8 or 16",
    ),
    "batch": (
        llama_8b("ib-200", 8, 64),
        {"global_batch": 7, "gpus": 64},
        r"global_batch: 7 sequences cannot be shared equally .*; use 6 or 8",
    ),
    "few": (
        llama_8b("ib-200", 8, 64),
        {"global_batch": 3, "gpus": 256},
        r"global_batch: 3 sequences are fewer than a micro-batch of 1 .*; use 8$",
    ),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_is_impossible_names_the_nearest_problem_that_works(name: str) -> None:
    problem, changes, message = IMPOSSIBLE[name]
    with pytest.raises(ValueError, match=message) as caught:
        best_plan(replace(problem, **changes))
    assert "\n" not in str(caught.value)


def test_the_memory_that_is_named_is_enough() -> None:
    problem = replace(llama_8b("ib-200", 8, 64), memory=2.0 * GIB)
    with pytest.raises(ValueError, match="use memory of") as caught:
        best_plan(problem)
    named = float(str(caught.value).split("use memory of ")[1].split()[0])
    assert best_plan(replace(problem, memory=named * GIB)).prediction.step_s > 0


def test_clusters_without_a_profiled_link_are_refused() -> None:
    problem = llama_8b("ib-200", 8, 64)
    with pytest.raises(ValueError, match="no link between nodes, got 16 GPUs on 2 nodes"):
        replace(problem, gpus=16, profile=replace(problem.profile, between=None))
    with pytest.raises(ValueError, match="no link inside a node"):
        replace(problem, profile=replace(problem.profile, inside=None))

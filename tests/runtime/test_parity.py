"""Loss and every gradient of a pipeline equal plain PyTorch's in one process."""

from functools import cache

import pytest
import torch

from support.parity import Case, gradient_errors, run_cases, training_errors
from support.ranks import run_ranks
from zeropp.plan import Plan

TOLERANCE = 1e-5  # relative, fp32: the order of sums differs, nothing else
B = 7


def schedules(chunks: int) -> list[tuple[str, int | None, str | None]]:
    every = [("zeropp", unit, "drain") for unit in range(1, B + 1)]
    every += [("zeropp", unit, "carry") for unit in (1, 2, 4)]
    every += [("interleaved-1f1b", None, None), ("breadth-first", None, None)]
    return every + ([("gpipe", None, None), ("1f1b", None, None)] if chunks == 1 else [])


def plans(pp_size: int, dp_shard: int) -> list[Plan]:
    policies = [("unit", 1), ("unit", 2), ("step", 2), ("microbatch", 2)]
    return [
        Plan(
            pp_size,
            chunks,
            B,
            name,
            unit,
            seam,
            dp_shard=dp_shard,
            shard=shard,
            max_resident=resident,
        )
        for chunks in (1, 2)
        for name, unit, seam in schedules(chunks)
        for shard, resident in (policies if dp_shard > 1 else policies[:1])
    ]


CASES = [
    Case(plan, bias)
    for pp_size, dp_shard in ((1, 1), (2, 1), (4, 1), (1, 2), (2, 2))
    for plan in plans(pp_size, dp_shard)
    for bias in ((True, False) if plan.unit_size in (None, 2, 5) else (True,))
    if plan.dp_size == 1 or plan.unit_size in (None, 1, 3, 4, 7)
]
TRAINING = [
    Case(Plan(pp, chunks, B, "zeropp", unit, dp_shard=dp, shard=shard, max_resident=1), steps=3)
    for pp, dp in ((1, 1), (2, 1), (4, 1), (1, 2), (2, 2))
    for chunks, unit, shard in ((1, 7, "unit"), (2, 3, "unit"), (2, 2, "step"))
]
BF16 = [
    Case(case.plan, case.bias, param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for case in CASES
    if case.bias and case.plan.unit_size in (None, 3)
]


@cache
def measured(kind: str, world_size: int) -> dict[str, dict[str, float]]:
    """Errors of all cases of one world size, the worst of the ranks for each tensor."""
    cases, measure = {
        "gradients": (CASES, gradient_errors),
        "training": (TRAINING, training_errors),
        "bf16": (BF16, gradient_errors),
    }[kind]
    fitting = [case for case in cases if case.plan.world_size == world_size]
    by_rank = run_ranks(world_size, run_cases, fitting, measure, timeout=280)
    worst: dict[str, dict[str, float]] = {str(case): {} for case in fitting}
    for results in by_rank:
        for case, errors in zip(fitting, results, strict=True):
            for name, error in errors.items():
                held = worst[str(case)]
                held[name] = max(error, held.get(name, 0.0))
    return worst


def too_far(kind: str, case: Case, tolerance: float) -> dict[str, float]:
    errors = measured(kind, case.plan.world_size)[str(case)]
    assert len(errors) > 10
    return {name: error for name, error in errors.items() if not error <= tolerance}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients_equal_plain_pytorch(case: Case) -> None:
    assert too_far("gradients", case, TOLERANCE) == {}


@pytest.mark.parametrize("case", TRAINING, ids=str)
def test_three_clipped_steps_equal_plain_pytorch(case: Case) -> None:
    assert too_far("training", case, TOLERANCE) == {}


@pytest.mark.parametrize("case", BF16, ids=str)
def test_bf16_parameters_with_fp32_reduction(case: Case) -> None:
    assert too_far("bf16", case, 2e-2) == {}

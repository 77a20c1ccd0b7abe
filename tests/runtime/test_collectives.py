"""The collectives that really run are the program's, no more and no fewer."""

from collections import Counter
from typing import Any

import pytest
import torch.distributed as dist

from support.exactness import Case, make, own_batch
from support.features import GPT
from support.ranks import run_ranks
from zeropp.ir import Kind
from zeropp.plan import Plan

PLANS = [
    Plan(2, 2, 8, "zeropp", 4, "drain", dp_shard=2, shard=shard, max_resident=resident)
    for shard, resident in (("unit", 1), ("unit", 2), ("step", 2), ("microbatch", 2))
]


def count_collectives() -> list[dict[str, int]]:
    """For every plan, the collectives that ran in one step and those of the program."""
    return [_count(Case(GPT, plan)) for plan in PLANS]


def _count(case: Case) -> dict[str, int]:
    pipe = make(case)
    ran: Counter[str] = Counter()
    gathers = ("all_gather_into_tensor", "all_gather_single")  # FSDP2 calls one or the other,
    reduces = ("reduce_scatter_tensor", "reduce_scatter_single")  # by torch's version
    real = {n: getattr(dist, n) for n in (*gathers, *reduces) if hasattr(dist, n)}

    def counting(name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            ran[name] += 1
            return real[name](*args, **kwargs)

        return call

    for name in real:
        setattr(dist, name, counting(name))
    try:
        pipe.step(own_batch(case, pipe))
    finally:
        for name, function in real.items():
            setattr(dist, name, function)
    planned = {kind: pipe.program.count(kind)[pipe.rank] for kind in (Kind.UNSHARD, Kind.REDUCE)}
    pipe.close()
    return {
        "gathered": sum(ran[name] for name in gathers),
        "reduced": sum(ran[name] for name in reduces),
        "UNSHARD": planned[Kind.UNSHARD],
        "REDUCE": planned[Kind.REDUCE],
    }


def test_collectives_at_run_time_are_those_of_the_program() -> None:
    expected = [(5, 4), (2, 4), (2, 2), (32, 16)]  # 1 + (2V-2)B/U; per unit and chunk; ...
    for counts in run_ranks(4, count_collectives, timeout=120):
        for ran, (gathers, reduces) in zip(counts, expected, strict=True):
            assert ran["gathered"] == ran["UNSHARD"] == gathers
            assert ran["reduced"] == ran["REDUCE"] == reduces


def fail_on_rank_one() -> None:
    if dist.get_rank() == 1:
        raise ValueError("a block broke")
    dist.barrier()


def test_a_failing_rank_is_reported_and_nobody_waits() -> None:
    with pytest.raises(AssertionError, match=r"(?s)rank 1 failed.*a block broke"):
        run_ranks(2, fail_on_rank_one, timeout=60)

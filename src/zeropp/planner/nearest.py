"""A problem that has no plan, and the nearest one that has: one line for the user."""

from dataclasses import replace
from functools import partial
from heapq import nsmallest
from typing import NoReturn

from zeropp.planner.bounds import memory_bound
from zeropp.planner.order import orders
from zeropp.planner.predict import made_order, predict
from zeropp.planner.pricing import Priced, cut, price
from zeropp.planner.problem import Problem
from zeropp.planner.search import layouts

_CHUNKS = (1, 2, 4, 8)
_LEANEST_LAYOUTS, _LEANEST_ORDERS = 8, 3
_MOST_ACTIONS = 3_000
_MORE_GPUS = (2, 4, 8, 16, 32, 64)


def refuse(problem: Problem) -> NoReturn:
    """Raise ValueError that says what to change."""
    if next(layouts(problem, _CHUNKS), None) is None:
        raise ValueError(_wrong_split(problem) or _unshareable(problem))
    raise ValueError(_too_large(problem))


def _wrong_split(problem: Problem) -> str | None:
    """No P x V has as many stages as the split; None if it is not to blame."""
    if problem.split is None:
        return None
    possible = {x.placement.num_stages for x in layouts(replace(problem, split=None), _CHUNKS)}
    if not possible:
        return None
    stages = len(problem.split)
    nearest = min(possible, key=lambda number: (abs(number - stages), number))
    return f"split: {problem.gpus} GPUs make no {stages} stages; list {nearest}, or leave it out"


def _unshareable(problem: Problem) -> str:
    """No number of ranks per pipeline leaves each data rank whole micro-batches."""
    smallest = min(setting.micro_batch_size for setting in problem.profile.blocks)
    blocks, gpus, batch = len(problem.profile.kinds), problem.gpus, problem.global_batch
    steps = {gpus // P * smallest for P in range(1, min(blocks, gpus) + 1) if gpus % P == 0}
    below = max(batch // step * step for step in steps)
    above = min(-(-batch // step) * step for step in steps)
    choices = " or ".join(str(size) for size in sorted({below, above} - {0}))
    if batch < min(steps):
        return (
            f"global_batch: {batch} sequences are fewer than a micro-batch of {smallest} for each "
            f"of the {min(steps) // smallest} or more data ranks that {gpus} GPUs make; "
            f"use {choices}"
        )
    return (
        f"global_batch: {batch} sequences cannot be shared equally by {gpus} GPUs with at most "
        f"{blocks} stages (one for each block); use {choices}"
    )


def _too_large(problem: Problem) -> str:
    line = (
        f"memory: no plan fits {problem.usable / 2**30:.1f} GiB on each of {problem.gpus} GPUs; "
        f"use memory of {_least_memory(problem) / 2**30 + 0.05:.1f} GiB or more"
    )
    for gpus in (problem.gpus * more for more in _MORE_GPUS):
        if gpus > problem.gpus_per_node and problem.profile.between is None:
            break
        if _least_memory(replace(problem, gpus=gpus)) <= problem.usable:
            return f"{line}, or {gpus} GPUs"
    return line


def _least_memory(problem: Problem) -> float:
    """Peak bytes of a plan that needs little; infinite if there is none.

    Layouts with the smallest micro-batch are tried, sharded over all data ranks.
    """
    smallest = min(setting.micro_batch_size for setting in problem.profile.blocks)
    priced = (
        price(problem, layout, cut(problem, layout))
        for layout in layouts(problem, _CHUNKS)
        if layout.dp_replicate == 1 and layout.setting.micro_batch_size == smallest
    )
    leanest = nsmallest(_LEANEST_LAYOUTS, priced, key=memory_bound)
    return min(map(_least_peak, leanest), default=float("inf"))


def _least_peak(priced: Priced) -> float:
    """Of a layout's orders that may need the least."""
    every = orders(priced.layout.placement, priced.num_microbatches)
    leanest = nsmallest(_LEANEST_ORDERS, every, key=partial(memory_bound, priced))
    return min(
        predict(priced, order, made_order(priced, order, _MOST_ACTIONS)).peak_bytes
        for order in leanest
    )

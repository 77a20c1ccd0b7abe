"""Our order and split in torch's own runtime, beside `zeropp.pipeline` and torch's schedules: the
same stages, micro-batches and costs, real processes and transfers, compute that sleeps.

Run: python benchmarks/pipelining.py [--json]; eight ranks, under three minutes on two cores.

Sides run in turn, step by step, so each ratio is of two steps that ran one after the other. A
micro-batch's activation of one stage is 1 MiB, a message 1/64 of it, and a stage's weight 1 MiB;
`peak_MiB` is what the fullest rank held at most above what it held between steps.
"""

import os
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from statistics import median

import torch
import torch.distributed as dist

from support.claim import Figure, Row, run
from support.emulated import EmulatedBlock
from support.memory import ALLOCATOR, grown
from support.ranks import run_ranks
from support.sides import seconds
from support.torch_runtime import CPU, OURS, PEERS, TorchPipeline
from zeropp.build import pipeline
from zeropp.costs import Costs
from zeropp.ir import Kind
from zeropp.measure.links import measure_hop
from zeropp.measure.rehearsal import tiny_loss
from zeropp.plan import Plan
from zeropp.runtime.pipeline import Pipeline

CLAIM = "Our order in torch's runtime, and in ours, over torch's Interleaved1F1B"

P, V, B = 8, 2, 16
UNIT_S = 0.050  # of a micro-batch's F, B or W through a whole rank
WIDTH, ROWS, COPIES, REPEATS = 512, 8, 64, 3
THEIRS = ("torch Interleaved1F1B", "torch ZBVZeroBubble")
INSIDE, ALONE = "ScheduleZeroPP in torch's runtime", "zeropp.pipeline"


@dataclass
class Result:
    """What one side took on one rank: seconds of each repeat, MiB, and messages of a step."""

    side: str
    messages: int
    taken: list[float] = field(default_factory=list)
    mib: float = 0.0


def started(side: str, costs: Costs) -> Pipeline | TorchPipeline:
    """One side, on this rank."""
    times = zip(costs.forward, costs.backward, costs.weight, strict=True)
    blocks = [EmulatedBlock(t, s == 0, WIDTH, COPIES) for s, t in enumerate(times)]
    plan = Plan(P, V, B, costs=costs)
    if side == ALONE:
        return pipeline(blocks, tiny_loss, plan, device=CPU)
    peer = OURS if side == INSIDE else PEERS[side.removeprefix("torch ")]
    return TorchPipeline(peer, blocks, tiny_loss, plan)


def sent(running: Pipeline | TorchPipeline) -> int:
    """Messages of this rank in a step."""
    if isinstance(running, TorchPipeline):
        return running.messages
    kinds = (Kind.SEND_F, Kind.SEND_B)
    return sum(running.program.count(kind)[running.rank] for kind in kinds)


def measured(unit_s: float) -> list[Result]:
    """On one rank, every side."""
    torch.manual_seed(0)
    latency = sum(measure_hop(0, P - 1, 4 * WIDTH * ROWS, CPU))
    costs = Costs.uniform(P, V, *(unit_s,) * 3, latency=latency)
    sides = {side: started(side, costs) for side in (*THEIRS, INSIDE, ALONE)}
    found = {side: Result(side, sent(running)) for side, running in sides.items()}
    batch = torch.zeros(B * ROWS, WIDTH)
    for running in sides.values():
        running.step((batch, batch))
    for _, (side, running) in product(range(REPEATS), sides.items()):
        timed = partial(_timed, found[side], partial(running.step, (batch, batch)))
        found[side].mib = max(found[side].mib, grown(timed))
    for running in sides.values():
        running.close()
    dist.barrier()
    return list(found.values())


def _timed(result: Result, step: partial[object]) -> None:
    result.taken.append(seconds(step))


def measure() -> tuple[list[Row], list[Figure]]:
    """A row for each side, and the throughput of ours over torch's Interleaved1F1B."""
    os.environ.update(ALLOCATOR)
    ranks = run_ranks(P, measured, UNIT_S, timeout=600)
    base, work = ranks[0][0].taken, 3 * B * UNIT_S
    rows: list[Row] = []
    over: dict[str, float] = {}
    for index, own in enumerate(ranks[0]):
        ratios = [theirs / mine for theirs, mine in zip(base, own.taken, strict=True)]
        over[own.side] = median(ratios)
        step_s, every = median(own.taken), [rank[index] for rank in ranks]
        row: Row = {"side": own.side, "step_s": round(step_s, 3)}
        row |= {"over_Interleaved1F1B": round(median(ratios), 3)}
        row |= {"spread": f"{min(ratios):.3f} to {max(ratios):.3f}"}
        row |= {"most_possible": round(step_s / work, 3)}
        row |= {"messages": sum(one.messages for one in every)}
        rows.append(row | {"peak_MiB": round(max(one.mib for one in every), 1)})
    name = f"P={P} B={B} V={V} over torch's Interleaved1F1B: "
    return rows, [
        Figure(name + ALONE, over[ALONE], 1.10, "times", at_least=True),
        Figure(name + INSIDE, over[INSIDE], 1.07, "times", at_least=True),
    ]


if __name__ == "__main__":
    run(CLAIM, measure)

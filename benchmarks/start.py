"""What start-up takes: `zeropp.pipeline(...)` on every rank of real processes, and its groups.

Run: python benchmarks/start.py [--pp P] [--dp D] [--repeats N] [--json]; 16 ranks, gloo, a minute.

Every repeat starts its ranks anew; they share this machine's cores. Counted are the process groups
that a rank has more of than before: those of the mesh, of its channels and of ties.
"""

import sys
import time
from statistics import median

import torch.distributed as dist
from rich.console import Console
from rich.table import Table

from support.claim import Row, parser, report
from support.memory import process_groups
from support.ranks import run_ranks
from support.torch_runtime import CPU
from zeropp.build import pipeline
from zeropp.measure.rehearsal import tiny_blocks, tiny_loss
from zeropp.plan import Plan

CLAIM = "What it takes to start a pipeline"


def started(plan: Plan) -> tuple[float, int]:
    """On one rank: seconds in `zeropp.pipeline`, and the process groups that it has more then."""
    dist.barrier()
    before, start = process_groups(), time.perf_counter()
    pipe = pipeline(tiny_blocks(plan.pp_size), tiny_loss, plan, device=CPU)
    found = time.perf_counter() - start, process_groups() - before
    pipe.close()
    return found


def main() -> int:
    """Measure and print."""
    options = parser(CLAIM)
    options.add_argument("--pp", type=int, default=8, help="P, ranks in a pipeline")
    options.add_argument("--dp", type=int, default=2, help="D, ranks that share each stage")
    options.add_argument("--repeats", type=int, default=5)
    wanted = options.parse_args()
    if wanted.repeats < 1:
        options.error("--repeats: at least 1")
    plan = Plan(wanted.pp, 1, 2 * wanted.pp, "1f1b", dp_shard=wanted.dp)
    repeats = [run_ranks(plan.world_size, started, plan) for _ in range(wanted.repeats)]
    rows: list[Row] = []
    for rank, found in enumerate(zip(*repeats, strict=True)):
        seconds, groups = zip(*found, strict=True)
        spread = round(max(seconds) - min(seconds), 3)
        times = {"median_s": round(median(seconds), 3), "spread_s": spread}
        rows.append({"rank": rank, **times, "groups": max(groups)})
    if wanted.json:
        return report(CLAIM, rows, [], wanted)
    table = Table(*rows[0], title=f"{CLAIM}: P={wanted.pp}, D={wanted.dp}")
    for each in rows:
        table.add_row(*map(str, each.values()))
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The planner against trying every plan, and how long it takes for a 70-billion-parameter Llama.

Run: python benchmarks/planner.py [--json]; about two minutes on two cores.
"""

import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from support.claim import Figure, Row, run
from support.problems import random_problem, tightened
from zeropp.planner import best_plan

CLAIM = "The planner finds the best plan, fast"

PROBLEMS = 50
SHARES = (0.02, 0.2, 1.0)  # of all plans fit the memory: hardly any, some, every one
SLOWER = "slower than the best by %"


def against_all(seed: int) -> Row:
    """How much faster the best of all plans is than the planner's, in percent."""
    problem, best = tightened(random_problem(seed), SHARES[seed % len(SHARES)])
    answer = best_plan(problem)
    row = {"problem": seed, "gpus": problem.gpus, "found": answer.family}
    return row | {"P": answer.plan.pp_size, SLOWER: (answer.best.step_s / best - 1) * 100}


def llama(gpus: int) -> float:
    """Seconds of the verb, with its process, for Llama 3 70B with 1024 x 4096 tokens."""
    model = "plan --model llama-70b --seq-len 4096 --global-batch 1024"
    cluster = f"--gpu H100-80G --between ib-400 --gpus-per-node 8 --gpus {gpus}"
    arguments = [sys.executable, "-m", "zeropp.cli.main", *f"{model} {cluster}".split()]
    start = time.perf_counter()
    subprocess.run(arguments, check=True, capture_output=True)
    return time.perf_counter() - start


def measure() -> tuple[list[Row], list[Figure]]:
    """A row for each problem."""
    figures = [
        Figure(f"zeropp plan, Llama 70B on {gpus:,} GPUs", llama(gpus), target, "s")
        for gpus, target in ((512, 20.0), (4096, 60.0))
    ]
    with ProcessPoolExecutor(2) as pool:
        rows = list(pool.map(against_all, range(PROBLEMS)))
    worst = max(row[SLOWER] for row in rows)
    figures.append(Figure(f"slower than the best of all plans, worst of {PROBLEMS}", worst, 1.0))
    return rows, figures


if __name__ == "__main__":
    run(CLAIM, measure)

"""Generate, lower, verify and simulate, against the same at another commit, in turns.

Run: python benchmarks/planning.py [--json] [--before COMMIT]; about three minutes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from support.claim import Figure, Row, parser, report

CLAIM = "Planning takes at most 0.35 of the time that it took on dictionaries of actions"

ROOT = Path(__file__).parents[1]
BEFORE = "17f32cb"  # the last commit on dictionaries
SIZES = ((8, 2, 64, 9), (64, 4, 512, 2))  # P, V, B and how often
ONCE = """
import sys, time
from zeropp.costs import Costs
from zeropp.generate import generate
from zeropp.ir import Order
from zeropp.program import lower, verify
from zeropp.simulate import simulate
P, V, B = map(int, sys.argv[1:])
costs = Costs.uniform(P, V, gather=0.1)
start = time.process_time()
program = lower(generate(Order("zeropp"), P, V, B, costs=costs), "unit")
assert not verify(program)
simulate(program, costs)
print(time.process_time() - start)
"""


def seconds(source: Path, *sizes: int) -> float:
    """Of the processor, in a process of its own on the package in `source`."""
    command = [sys.executable, "-c", ONCE, *map(str, sizes)]
    environment = os.environ | {"PYTHONPATH": str(source / "src")}
    run = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return float(run.stdout)


def measure(wanted: argparse.Namespace) -> tuple[list[Row], list[Figure]]:
    """A row for each size: the least of each side."""
    rows, figures = [], []
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(
            ["git", "archive", wanted.before, "src"], cwd=ROOT, check=True, capture_output=True
        )
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        for P, V, B, runs in SIZES:
            pairs = [[seconds(at, P, V, B) for at in (Path(folder), ROOT)] for _ in range(runs)]
            before, now = map(min, zip(*pairs, strict=True))
            rows.append({"P": P, "V": V, "B": B, "before s": before, "now s": now})
            figures.append(Figure(f"of the time before, P={P} V={V} B={B}", now / before, 0.35, ""))
    return rows, figures


def main() -> int:
    """Measure and report."""
    options = parser(CLAIM)
    options.add_argument("--before", default=BEFORE, help="the commit to compare with")
    wanted = options.parse_args()
    return report(CLAIM, *measure(wanted), wanted)


if __name__ == "__main__":
    sys.exit(main())

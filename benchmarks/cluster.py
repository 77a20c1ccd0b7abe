"""ZeroPP over slow links, against 1F1B with ZeRO-3 and ZeRO-2, interleaved 1F1B, breadth-first and
torch's own runtime: throughput, bytes on the wire, peak memory.

Run: python benchmarks/cluster.py [--json] [--plot FILE]; as root with iproute2, nine minutes.

Four hosts of two ranks (P=4, D=2); eight with --hosts 8, 19 minutes; with --all much longer.

Hosts are network namespaces joined by a switch; each link sends through a token bucket at both
ends. torchrun starts the ranks. Blocks sleep for compute, 15 ms for each of F, B and W; their
parameters, activations, gradients and messages are real, in a transformer's proportions
(cluster_block.py): over 200 Mbit/s, both ranks of a host gather a block in two F.

ZeroPP, breadth-first and interleaved 1F1B have V=4 stages of one block. 1F1B has one stage of four
a rank; this library gathers it as a whole, `microbatch` for every F and backward and reduces after
each, `step` once, keeping parameters and unreduced gradients until the end. torch's FSDP2 wraps
every block and reduces once a step. Steps are from the first rank's start to the last one's end.
Peak memory is what a process holds above its state between steps, plus its shards of parameters
and gradients; there is no optimizer. Every place has a verdict: what ZeroPP does not win over.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from claim import parser, report
from cluster_cases import Batch, Job, Mapping
from cluster_hosts import ClusterError, make_cluster
from cluster_launch import run_job
from cluster_plot import plot
from cluster_verdict import figures, verdicts

NEEDED = ("ip", "tc")
PICTURES = (".png", ".svg", ".pdf")
CLAIM = "ZeroPP over slow links: faster than breadth-first and 1F1B + ZeRO-3, in less memory"


def refusal(user: int) -> str | None:
    """Why this machine cannot run it, if it cannot."""
    missing = [tool for tool in NEEDED if shutil.which(tool) is None]
    if missing:
        return f"needs iproute2, but {' and '.join(missing)} cannot be found; install iproute2"
    if user != 0:
        return "needs root, to make network namespaces and limit their links; run it with sudo"
    return None


def chosen_options() -> argparse.Namespace:
    """The command line."""
    options = parser(CLAIM)
    options.add_argument("--plot", type=Path, help="write throughput over link rate to this file")
    options.add_argument("--hosts", type=int, choices=(4, 8), default=4, help="P, and ranks / 2")
    options.add_argument("--all", action="store_true", help="more batches, rates and steps")
    chosen = options.parse_args()
    if chosen.plot is not None and not chosen.plot.absolute().parent.is_dir():
        options.error(f"--plot: there is no folder {chosen.plot.parent}; make it first")
    if chosen.plot is not None and chosen.plot.suffix not in PICTURES:
        options.error(f"--plot: a file ending in {', '.join(PICTURES)}, got {chosen.plot.name!r}")
    return chosen


def main() -> int:
    """Measure and report."""
    chosen = chosen_options()
    if reason := refusal(os.geteuid()):
        print(f"cluster.py {reason}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGHUP, _stop)
    try:
        rows = measure(chosen.hosts, everything=chosen.all)
    except ClusterError as error:
        print(f"cluster.py cannot make its hosts here: {error}", file=sys.stderr)
        return 2
    if chosen.plot is not None:
        plot(rows, chosen.plot)
    stated = figures(rows, Mapping.ACROSS, chosen.hosts // 2, 500)
    return report(CLAIM, [*rows, *verdicts(rows)], stated, chosen)


def measure(P: int, *, everything: bool) -> list[dict[str, Any]]:
    """All rows, from a cluster of P hosts that is gone afterwards."""
    batches = _every(P) if everything else _few(P)
    with tempfile.TemporaryDirectory() as folder, make_cluster(P) as cluster:
        results = str(Path(folder) / "rows")
        return run_job(Job(cluster, P, batches, tuple(Mapping), results))


def _few(P: int) -> tuple[Batch, ...]:
    return Batch(P // 2, 3, (50, 200, 500, None)), Batch(3 * P, 1, (50, 500))


def _every(P: int) -> tuple[Batch, ...]:
    rates = (50, 100, 200, 500, 1000, None)
    few = [Batch(size, 5, rates) for size in (P // 2, 3 * P // 4, P)]
    return *few, *(Batch(size, 3, rates) for size in (2 * P, 3 * P, 4 * P))


def _stop(number: int, _: object) -> None:
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())

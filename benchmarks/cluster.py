"""ZeroPP over slow links, against 1F1B with ZeRO-3 and ZeRO-2, interleaved 1F1B, breadth-first and
torch's own runtime: throughput, bytes on the wire, peak memory.

Run: python benchmarks/cluster.py [--json] [--plot FILE]; as root with iproute2, nine minutes.

Four hosts of two ranks (P=4, D=2); eight with --hosts 8, 19 minutes; with --all much longer. Hosts
are network namespaces (tests/support/hosts.py). Blocks sleep for compute; their parameters,
activations, gradients and messages are real, in a transformer's proportions (cluster/cases.py).

ZeroPP, breadth-first and interleaved 1F1B have V=4 stages of one block. 1F1B has one stage of four
a rank; this library gathers it as a whole, `microbatch` for every F and backward and reduces after
each, `step` once. torch's FSDP2 wraps every block and reduces once a step. Steps are from the first
rank's start to the last one's end. Peak memory is what a process holds above its state between
steps, plus its shards of parameters and gradients. Every place has a verdict.
"""

import argparse
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from cluster.cases import Batch, D, Job, Mapping, figures, verdicts
from support.claim import Row, parser, report
from support.hosts import DEVICE, ClusterError, make_cluster, refusal
from support.memory import ALLOCATOR
from support.pictures import rates_picture

CLAIM = "ZeroPP over slow links: faster than breadth-first and 1F1B + ZeRO-3, in less memory"
PICTURES = (".png", ".svg", ".pdf")


def _chosen_options() -> argparse.Namespace:
    options = parser(CLAIM)
    options.add_argument("--plot", type=Path, help="write throughput over link rate to this file")
    options.add_argument("--hosts", type=int, choices=(4, 8), default=4, help="P, and ranks / 2")
    options.add_argument("--all", action="store_true", help="more batches, rates and steps")
    chosen = options.parse_args()
    if (plot := chosen.plot) is not None and not plot.absolute().parent.is_dir():
        options.error(f"--plot: there is no folder {plot.parent}; make it first")
    if plot is not None and plot.suffix not in PICTURES:
        options.error(f"--plot: a file ending in {', '.join(PICTURES)}, got {plot.name!r}")
    return chosen


def batches(P: int, everything: bool) -> tuple[Batch, ...]:
    """Fewer and more micro-batches than ranks."""
    if not everything:
        return Batch(P // 2, 3, (50, 200, 500, None)), Batch(3 * P, 1, (50, 500))
    rates = (50, 100, 200, 500, 1000, None)
    few = [Batch(size, 5, rates) for size in (P // 2, 3 * P // 4, P)]
    return *few, *(Batch(size, 3, rates) for size in (2 * P, 3 * P, 4 * P))


def run_job(job: Job) -> list[Row]:
    """The rows of a job, unless a rank fails; what the ranks say goes to our error stream."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        given, rows = Path(folder) / "job", Path(folder) / "rows"
        given.write_bytes(pickle.dumps(job))
        ranks = [_start(job, rank, given, rows) for rank in range(job.P * D)]
        for process in ranks:
            stack.callback(process.wait)
            stack.callback(process.kill)
        codes: list[int | None] = [None]
        while None in codes and not any(codes):
            time.sleep(0.5)
            codes = [process.poll() for process in ranks]
        if any(codes):
            raise RuntimeError(f"ranks ended with status {codes}")
        found: list[Row] = json.loads(rows.read_text(encoding="utf-8"))
        return found


def _start(job: Job, rank: int, given: Path, rows: Path) -> subprocess.Popen[bytes]:
    """D ranks are on a host, as torchrun numbers them."""
    environment = {
        "RANK": str(rank),
        "WORLD_SIZE": str(job.P * D),
        "MASTER_ADDR": job.cluster.address(0),
        "MASTER_PORT": "29500",
        "GLOO_SOCKET_IFNAME": DEVICE,
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    return subprocess.Popen(
        [*job.cluster.on(rank // D), sys.executable, "-m", "cluster.worker", str(given), str(rows)],
        env=os.environ | ALLOCATOR | environment,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,  # Ctrl-C reaches the launcher alone, which then cleans up
    )


def main() -> int:
    """Measure and report."""
    chosen = _chosen_options()
    if reason := refusal(os.geteuid()):
        print(f"cluster.py {reason}", file=sys.stderr)
        return 2
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        with make_cluster(chosen.hosts) as cluster:
            rows = run_job(Job(cluster, chosen.hosts, batches(chosen.hosts, chosen.all)))
    except ClusterError as error:
        print(f"cluster.py cannot make its hosts here: {error}", file=sys.stderr)
        return 2
    if chosen.plot is not None:
        rates_picture(rows, chosen.plot)
    stated = figures(rows, Mapping.ACROSS, chosen.hosts // 2, 500)
    return report(CLAIM, [*rows, *verdicts(rows)], stated, chosen)


if __name__ == "__main__":
    sys.exit(main())

"""Starting torchrun on every host of a cluster, and reading rows as they come."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cluster_cases import D, Job
from cluster_hosts import DEVICE, HOST, Cluster

WORKER = Path(__file__).with_name("cluster_worker.py")
_PORT = 29500
_ENVIRONMENT = {
    "GLOO_SOCKET_IFNAME": DEVICE,
    "TP_SOCKET_IFNAME": DEVICE,
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",  # freed memory goes back, so that it is not counted
    "MALLOC_TRIM_THRESHOLD_": "0",
}


def run_job(job: Job) -> list[dict[str, Any]]:
    """The rows of a job, from ranks that torchrun starts on all hosts.

    Raises:
        RuntimeError: a host failed, with the end of what it printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.json"
        path.write_text(json.dumps(job.as_dict()), encoding="utf-8")
        with _hosts(job.cluster, path) as processes:
            _follow(processes, Path(job.results), Path(folder))
    return read_rows(Path(job.results))


def _follow(processes: list[subprocess.Popen[bytes]], results: Path, folder: Path) -> None:
    """Say what was measured until every host has ended."""
    told = 0
    while True:
        codes = [process.poll() for process in processes]
        rows = read_rows(results)
        for row in rows[told:]:
            where = f"{row['mapping']} B={row['B']} {row['case']} at {row['rate']}"
            print(f"{where}: {row['step_s']:.3f} s, {row['peak_MiB']} MiB", file=sys.stderr)
        told = len(rows)
        for host, code in enumerate(codes):
            if code:
                log = _log(folder, host).read_text(encoding="utf-8", errors="replace")
                raise RuntimeError(f"host {host} ended with status {code}:\n{log[-4000:]}")
        if all(code == 0 for code in codes):
            return
        time.sleep(0.5)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a file of rows."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [json.loads(line) for line in lines]


@contextmanager
def _hosts(cluster: Cluster, job: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """torchrun on every host; ended at the end, the cluster kills what they leave behind."""
    with ExitStack() as stack:
        processes = []
        for host in range(len(cluster.hosts)):
            log = stack.enter_context(_log(job.parent, host).open("wb"))
            process = subprocess.Popen(
                _torchrun(cluster, host, job),
                env=os.environ | _ENVIRONMENT | {HOST: str(host)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches the launcher alone, which then cleans up
            )
            stack.callback(_end, process)
            processes.append(process)
        yield processes


def _torchrun(cluster: Cluster, host: int, job: Path) -> list[str]:
    command = ["ip", "netns", "exec", cluster.hosts[host], sys.executable]
    command += ["-m", "torch.distributed.run"]
    command += [f"--nnodes={len(cluster.hosts)}", f"--nproc-per-node={D}"]
    command += ["--rdzv-backend=c10d", "--rdzv-id=cluster"]
    command += [f"--rdzv-endpoint={cluster.address(0)}:{_PORT}"]
    # hosts share a name, so each is told whether it is the first, and its address
    command += [f"--rdzv-conf=is_host={int(host == 0)}"]
    command += [f"--local-addr={cluster.address(host)}"]
    return [*command, str(WORKER), str(job)]


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _log(folder: Path, host: int) -> Path:
    return folder / f"host{host}.log"

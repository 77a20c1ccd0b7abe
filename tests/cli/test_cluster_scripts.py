"""The scripts for clusters start two hosts' ranks, with stand-ins for what starts the scripts."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.processes import children, descendants

CLUSTER = Path(__file__).parents[2] / "docs" / "cluster"
SMALL = """
[model]
layers = 2
[data]
seq_len = 16
micro_batch_size = 1
[parallel]
pp_size = 2
num_microbatches = 2
[run]
steps = {steps}
sample = 0
eval_every = 1000000
"""
SRUN = """#!/bin/sh
# one task a host, of which this machine is two
shift
"$@" & "$@" & wait
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a configuration, and with srun and scontrol on the path."""
    (tmp_path / "bin").mkdir()
    for name, text in (("srun", SRUN), ("scontrol", "#!/bin/sh\necho localhost\n")):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    path = [str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    given = {"PATH": ":".join(path), "RANKS": "1", "HOST": "localhost", "SLURM_NNODES": "2"}
    for name, value in (given | {"SLURM_JOB_NODELIST": "a", "SLURM_JOB_ID": "7"}).items():
        monkeypatch.setenv(name, value)
    return tmp_path


def start(folder: Path, script: str) -> "subprocess.Popen[str]":
    text = (CLUSTER / script).read_text().replace(":29500", f":{29500 + os.getpid() % 1000}")
    (folder / script).write_text(text)
    return subprocess.Popen(
        ["bash", script],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def steps(folder: Path) -> list[int]:
    path = folder / "runs" / "demo" / "metrics.jsonl"
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_two_hosts_by_hand(cluster: Path) -> None:
    (cluster / "train.toml").write_text(SMALL.format(steps=3))
    hosts = [start(cluster, "two-hosts.sh") for _ in range(2)]
    for host in hosts:
        output, _ = host.communicate(timeout=120)
        assert host.returncode == 0, output
    assert steps(cluster) == [1, 2, 3]


def test_slurm_and_its_warning_before_the_time_is_over(cluster: Path) -> None:
    (cluster / "train.toml").write_text(SMALL.format(steps=100000))
    job = start(cluster, "slurm.sbatch")
    deadline = time.monotonic() + 90
    while not (cluster / "runs" / "demo" / "metrics.jsonl").exists():
        assert time.monotonic() < deadline
        assert job.poll() is None
        time.sleep(0.1)
    # Slurm signals the processes of a step, not the script that made it
    for process in [pid for srun in children(job.pid) for pid in descendants(srun)]:
        os.kill(process, signal.SIGUSR1)
    output, _ = job.communicate(timeout=90)
    assert job.returncode == 0, output
    assert "stopped by SIGUSR1 after step" in output
    (saved,) = (cluster / "runs" / "demo" / "checkpoints").iterdir()
    assert saved.name == f"step-{steps(cluster)[-1]}"

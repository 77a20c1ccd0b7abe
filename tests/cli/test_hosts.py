"""Runs over hosts that are network namespaces: as one host's, and what cables and deaths do to it.

The hosts have addresses and names of their own, and share disk and processor.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from test_cluster_scripts import CLUSTER, SMALL

from support.hosts import Cluster, ClusterError, make_cluster, refusal

STEPS = 30
MORE = """save_every = 5
timeout = 600
[optim]
lr = 3e-4
"""


def elastic(script: str) -> str:
    """As docs/cluster.md says, with less patience for hosts that may come."""
    script = script.replace("--nnodes 2", "--nnodes 1:2")
    return script.replace("600", "600,last_call_timeout=3").rstrip() + " --run.elastic"


CORES = sorted(os.sched_getaffinity(0))
SCRIPT = ["sh", str(CLUSTER / "two-hosts.sh")]
ELASTIC = ["sh", "-c", elastic((CLUSTER / "two-hosts.sh").read_text())]


@pytest.fixture(scope="module")
def hosts() -> Iterator[Cluster]:
    if (why := refusal(os.geteuid())) is not None:
        pytest.skip(why)
    with ExitStack() as stack:
        try:
            cluster = stack.enter_context(make_cluster(2))
        except ClusterError as error:
            pytest.skip(f"no network namespaces here: {error}")
        yield cluster


def start(cluster: Cluster, host: int, cwd: Path, command: list[str]) -> "subprocess.Popen[bytes]":
    """On a host whose one rank has one core, as on one host with two."""
    core = ["taskset", "-c", str(CORES[host % len(CORES)])]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    given = os.environ | {"PATH": path, "HOST": cluster.name(0), "RANKS": "1"}
    with (cwd / f"host-{host}.txt").open("ab") as output:
        return subprocess.Popen(
            [*cluster.on(host), *core, *command], cwd=cwd, env=given, stdout=output, stderr=output
        )


def made(cwd: Path) -> list[dict[str, Any]]:
    path = cwd / "runs" / "demo" / "metrics.jsonl"
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def losses(cwd: Path) -> list[float]:
    assert [step["step"] for step in made(cwd)] == list(range(1, STEPS + 1))
    return [step["loss"] for step in made(cwd)]


def wait_for(happened: Callable[[], Any], cwd: Path, seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, said(cwd)
        time.sleep(0.02)


def said(cwd: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(cwd.glob("host-*.txt")))


def configure(cwd: Path, **instead: int) -> None:
    text = SMALL.format(steps=STEPS) + MORE
    for name, value in instead.items():
        text = re.sub(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.M)
    (cwd / "train.toml").write_text(text)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks on one host that nothing happened to."""
    cwd = tmp_path_factory.mktemp("whole")
    configure(cwd)
    cores = ["taskset", "-c", ",".join(map(str, CORES[:2]))]
    train = [sys.executable, "-m", "zeropp.cli.main", "train", "--config", "train.toml"]
    subprocess.run([*cores, *train], cwd=cwd, timeout=240, check=True)
    return cwd


@pytest.mark.parametrize(
    "seconds", [5, pytest.param(60, marks=(pytest.mark.nightly, pytest.mark.timeout(600)))]
)
def test_a_cable_that_is_pulled_for_a_while_costs_nothing_but_that(
    hosts: Cluster, whole: Path, tmp_path: Path, seconds: float
) -> None:
    configure(tmp_path)
    both = [start(hosts, host, tmp_path, SCRIPT) for host in range(2)]
    wait_for(lambda: len(made(tmp_path)) >= 3, tmp_path)
    hosts.join(1, joined=False)
    time.sleep(1)
    then = len(made(tmp_path))
    time.sleep(seconds - 1)
    assert len(made(tmp_path)) == then < STEPS
    hosts.join(1, joined=True)
    for host in both:
        assert host.wait(200) == 0, said(tmp_path)
    assert losses(tmp_path) == losses(whole)
    assert "going on from" not in said(tmp_path)


@pytest.mark.nightly
@pytest.mark.timeout(600)
@pytest.mark.parametrize("command", [SCRIPT, ELASTIC], ids=["waits", "elastic"])
def test_a_host_that_dies_comes_back(
    hosts: Cluster, whole: Path, tmp_path: Path, command: list[str]
) -> None:
    # a picture a step, which takes the time that the second host needs to begin
    configure(tmp_path, timeout=5, eval_every=1)
    first, second = (start(hosts, host, tmp_path, command) for host in range(2))
    wait_for(lambda: len(made(tmp_path)) >= 7, tmp_path)
    hosts.join(1, joined=False)
    hosts.kill(1)
    second.wait(10)
    wait_for(lambda: "all ranks stop" in said(tmp_path), tmp_path)
    if command is ELASTIC:
        wait_for(
            lambda: made(tmp_path)[-1]["step"] > 7 and "building 1 " in said(tmp_path), tmp_path
        )
    hosts.join(1, joined=True)
    second = start(hosts, 1, tmp_path, command)
    for host in (first, second):
        assert host.wait(200) == 0, said(tmp_path)
    assert losses(tmp_path) == pytest.approx(losses(whole), rel=1e-5)
    starts = json.loads((tmp_path / "runs" / "demo" / "environment.json").read_text())
    assert [one["ranks"] for one in starts] == ([2, 1, 2] if command is ELASTIC else [2, 2])

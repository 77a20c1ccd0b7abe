"""Hosts made of network namespaces, joined by a switch whose links can be given a rate.

    host 0  eth0 ===== port0 |
    host 1  eth0 ===== port1 | bridge in a namespace of its own
    host n  eth0 ===== portn |

Both ends of a link send through a token bucket, so a host's link has the rate in each direction.
Its burst is what the link carries in two milliseconds: short messages are not let through for free.
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

DEVICE = "eth0"
HOST = "ZEROPP_CLUSTER_HOST"  # environment: number of the host that a process runs on
_MTU = 9000  # frames cost the processor, which is the ranks' too
_BURST_S = 2e-3
_LEAST_BURST = 10_000  # bytes, above a frame
_QUEUE = "16mb"  # so that nothing is dropped; TCP's windows keep it short


class ClusterError(RuntimeError):
    """The machine would not make, limit or remove a host or a link."""


@dataclass(frozen=True)
class Cluster:
    """Names of the namespaces."""

    switch: str
    hosts: tuple[str, ...]

    @staticmethod
    def address(host: int) -> str:
        """Where a host is found by the others."""
        return f"10.77.0.{host + 1}"

    def limit(self, mbit: float | None) -> None:
        """Give every link a rate in Mbit/s, both ways; None: as fast as the machine."""
        ends = [(name, DEVICE) for name in self.hosts]
        ends += [(self.switch, f"port{host}") for host in range(len(self.hosts))]
        for namespace, device in ends:
            rule = "noqueue" if mbit is None else _bucket(mbit)
            _run(f"tc -n {namespace} qdisc replace dev {device} root {rule}")


def bytes_sent() -> int:
    """What the host that this process runs on has put on its link so far."""
    return int(Path(f"/sys/class/net/{DEVICE}/statistics/tx_bytes").read_text(encoding="ascii"))


@contextmanager
def make_cluster(num_hosts: int) -> Iterator[Cluster]:
    """Hosts that are gone, with whatever runs in them, when this ends in any way but SIGKILL."""
    prefix = f"zeropp-{os.getpid()}"
    cluster = Cluster(f"{prefix}-switch", tuple(f"{prefix}-{h}" for h in range(num_hosts)))
    with ExitStack() as stack:
        stack.callback(_end_quiet)  # last: one more Ctrl-C does not stop the cleaning
        for name in (cluster.switch, *cluster.hosts):
            _run(f"ip netns add {name}")
            stack.callback(_remove, name)
            _run(f"ip -n {name} link set dev lo up")
        _run(f"ip -n {cluster.switch} link add name bridge type bridge")
        _run(f"ip -n {cluster.switch} link set dev bridge up")
        for host in range(num_hosts):
            _join(cluster, host)
        stack.callback(_begin_quiet)  # first
        yield cluster


def _join(cluster: Cluster, host: int) -> None:
    name, port = cluster.hosts[host], f"port{host}"
    add = f"link add name {port} mtu {_MTU} type veth peer name {DEVICE} mtu {_MTU} netns {name}"
    _run(f"ip -n {cluster.switch} {add}")
    _run(f"ip -n {cluster.switch} link set dev {port} master bridge up")
    _run(f"ip -n {name} addr add {cluster.address(host)}/24 dev {DEVICE}")
    _run(f"ip -n {name} link set dev {DEVICE} up")


def _remove(name: str) -> None:
    """End what runs in a namespace, and delete it; its devices and their queues go with it."""
    for pid in _run(f"ip netns pids {name}").split():
        _kill(int(pid))
    _run(f"ip netns delete {name}")


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:  # it ended by itself meanwhile, which is what is wanted
        return


def _begin_quiet() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)


def _end_quiet() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPPING)


_STOPPING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


def _bucket(mbit: float) -> str:
    burst = max(_LEAST_BURST, int(mbit * 1e6 / 8 * _BURST_S))
    return f"tbf rate {mbit}mbit burst {burst} limit {_QUEUE}"


def _run(command: str) -> str:
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"{command}: {done.stderr.strip()}")
    return done.stdout

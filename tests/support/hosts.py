"""Hosts made of network namespaces, joined by a switch whose links can be given a rate, or cut.

    host 0  eth0 ===== port0 |
    host 1  eth0 ===== port1 | bridge in a namespace of its own
    host n  eth0 ===== portn |

Both ends of a link send through a token bucket, so a host's link has the rate in each direction.
Its burst is what the link carries in two milliseconds: short messages are not let through for free.
A host has a name of its own, which the others find; files and processes it shares with them.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

DEVICE = "eth0"
_MTU = 9000  # frames cost the processor, which is the ranks' too
_BURST_S = 2e-3
_LEAST_BURST = 10_000  # bytes, above a frame
_QUEUE = "16mb"  # so that nothing is dropped; TCP's windows keep it short
# a name is the process's and its children's alone, and so are the names that it knows
_NAMED = 'hostname "$1" && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"'
_STOPPING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


class ClusterError(RuntimeError):
    """The machine would not make, limit or remove a host or a link."""


def refusal(user: int) -> str | None:
    """Why this machine cannot have such hosts, if it cannot."""
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if missing:
        return f"needs iproute2, but {' and '.join(missing)} cannot be found; install iproute2"
    if user != 0:
        return "needs root, to make network namespaces and limit their links; run it with sudo"
    return None


@dataclass(frozen=True)
class Cluster:
    """Names of the namespaces, and the file in which all hosts' names stand."""

    switch: str
    hosts: tuple[str, ...]
    names: Path

    @staticmethod
    def address(host: int) -> str:
        """Where a host is found by the others."""
        return f"10.77.0.{host + 1}"

    @staticmethod
    def name(host: int) -> str:
        """What it calls itself, which all hosts know."""
        return f"host-{host}"

    def on(self, host: int) -> list[str]:
        """The beginning of a command that is run there."""
        inside = ["ip", "netns", "exec", self.hosts[host], "unshare", "--uts", "sh", "-c", _NAMED]
        return [*inside, "sh", self.name(host), str(self.names)]

    def join(self, host: int, joined: bool) -> None:
        """Put its cable into the switch, or pull it out."""
        _run(f"ip -n {self.switch} link set dev port{host} {'up' if joined else 'down'}")

    def kill(self, host: int) -> None:
        """End all that runs there, at once."""
        _kill_in(self.hosts[host])

    def limit(self, mbit: float | None) -> None:
        """Give every link a rate in Mbit/s, both ways; None: as fast as the machine."""
        rule = "noqueue"
        if mbit is not None:
            burst = max(_LEAST_BURST, int(mbit * 1e6 / 8 * _BURST_S))
            rule = f"tbf rate {mbit}mbit burst {burst} limit {_QUEUE}"
        for number, host in enumerate(self.hosts):
            _run(f"tc -n {host} qdisc replace dev {DEVICE} root {rule}")
            _run(f"tc -n {self.switch} qdisc replace dev port{number} root {rule}")


def bytes_sent() -> int:
    """What the host that this process runs on has put on its link so far."""
    return int(Path(f"/sys/class/net/{DEVICE}/statistics/tx_bytes").read_text(encoding="ascii"))


@contextmanager
def make_cluster(num_hosts: int) -> Iterator[Cluster]:
    """Hosts that are gone, with whatever runs in them, when this ends in any way but SIGKILL."""
    prefix = f"zeropp-{os.getpid()}"
    switch, hosts = f"{prefix}-switch", tuple(f"{prefix}-{h}" for h in range(num_hosts))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        cluster = Cluster(switch, hosts, Path(folder) / "hosts")
        known = (f"{cluster.address(h)} {cluster.name(h)}\n" for h in range(num_hosts))
        cluster.names.write_text("127.0.0.1 localhost\n" + "".join(known), encoding="ascii")
        # one more Ctrl-C does not stop the cleaning; what is pushed last is called first
        stack.callback(signal.pthread_sigmask, signal.SIG_UNBLOCK, _STOPPING)
        for name in (cluster.switch, *cluster.hosts):
            _run(f"ip netns add {name}")
            stack.callback(_remove, name)
            _run(f"ip -n {name} link set dev lo up")
        _run(f"ip -n {cluster.switch} link add name bridge type bridge")
        _run(f"ip -n {cluster.switch} link set dev bridge up")
        for number, host in enumerate(cluster.hosts):
            link = f"link add name port{number} mtu {_MTU} type veth peer name {DEVICE} mtu {_MTU}"
            _run(f"ip -n {cluster.switch} {link} netns {host}")
            _run(f"ip -n {cluster.switch} link set dev port{number} master bridge up")
            _run(f"ip -n {host} addr add {cluster.address(number)}/24 dev {DEVICE}")
            _run(f"ip -n {host} link set dev {DEVICE} up")
        stack.callback(signal.pthread_sigmask, signal.SIG_BLOCK, _STOPPING)
        yield cluster


def _remove(name: str) -> None:
    """End what runs in a namespace, and delete it; its devices and their queues go with it."""
    _kill_in(name)
    _run(f"ip netns delete {name}")


def _kill_in(name: str) -> None:
    for pid in _run(f"ip netns pids {name}").split():
        with suppress(ProcessLookupError):  # it ended by itself meanwhile, which is what is wanted
            os.kill(int(pid), signal.SIGKILL)


def _run(command: str) -> str:
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"{command}: {done.stderr.strip()}")
    return done.stdout

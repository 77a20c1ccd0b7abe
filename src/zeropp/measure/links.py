"""What a link between ranks takes: messages by ping-pong, collectives on real process groups."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from zeropp.measure.trace import clock_of
from zeropp.planner.link import Link
from zeropp.runtime.boundary import TensorSpec
from zeropp.runtime.channel import PeerLink
from zeropp.runtime.compat import new_group
from zeropp.runtime.mesh import gathered

SMALL = 64  # bytes of a message whose time is all latency
_ROUNDS = 30
_REPEATS = 5
_PAUSE_S = 0.01
SIZES = (2**14, 2**17, 2**20, 2**23, 2**25)


def measure_link(ranks: Sequence[int], device: torch.device) -> Link | None:
    """The link among the global `ranks`, measured while all of them use it; None if that is one.

    Collective, on all ranks of the world; they all get the same answer.
    """
    if len(ranks) == 1:
        return None
    found = None
    if dist.get_rank() in ranks:
        group = new_group(ranks, "link")
        found = _measured(ranks, device, group)
        dist.destroy_process_group(group)
    return gathered(found)[ranks[0]]


def _measured(ranks: Sequence[int], device: torch.device, group: dist.ProcessGroup) -> Link:
    hop = partial(measure_hop, ranks[0], ranks[-1], device=device, group=group)
    latency, host = hop(SMALL)
    carried, _ = hop(SIZES[-1], rounds=_REPEATS)
    return Link(
        latency,
        SIZES[-1] / max(carried - latency, 1e-9),
        tuple((float(size), _gather(size, len(ranks), device, group)) for size in SIZES),
        tuple((float(size), _reduce(size, len(ranks), device, group)) for size in SIZES),
        len(ranks),
        host=host if device.type == "cpu" else 0.0,  # a GPU goes on computing
    )


class Hop(NamedTuple):
    """Seconds of a message between two ranks, which `Link` explains."""

    latency: float
    host: float


def measure_hop(
    first: int,
    last: int,
    size: int,
    device: torch.device,
    group: dist.ProcessGroup | None = None,
    rounds: int = _ROUNDS,
) -> Hop:
    """A message of `size` bytes between two ranks, by ping-pong over a pipeline's own links.

    Rounds are a pause apart, as the messages of a pipeline are: without one, both ends would find
    in their caches all that a message needs, which no rank does after computing.

    Collective on `group`, None being all ranks, who get the same answer. Nothing between a rank
    and itself.
    """
    if first == last:
        return Hop(0.0, 0.0)
    dist.barrier(group)
    me = dist.get_rank()
    found = torch.zeros(2, device=device)
    if me in (first, last):
        link = PeerLink(group or _world(), last if me == first else first, device)
        ball = torch.zeros(size, dtype=torch.uint8, device=device)
        play = _serve if me == first else _return
        hops = [play(link, ball) for _ in range(rounds + 1)][1:]
        link.flush()
        found = torch.tensor([median(each) for each in zip(*hops, strict=True)], device=device)
    dist.all_reduce(found, group=group)
    latency, host = found.tolist()
    return Hop(max(0.0, latency), host)


def _serve(link: PeerLink, ball: Tensor) -> Hop:
    """Half of the way there and back; the time of posting the receive is hidden by the way there.

    The sending call at either end is no part of it. The other end's is shorter, as it has just
    been woken, so each takes its own away.
    """
    time.sleep(_PAUSE_S)
    start = time.perf_counter()
    link.send((ball,))
    sent = time.perf_counter()
    arrival = link.receive((TensorSpec.of(ball),))
    posted = time.perf_counter()
    arrival.wait()
    clock_of(ball.device).settle()
    return Hop((time.perf_counter() - sent) / 2, (posted - start) / 2)


def _return(link: PeerLink, ball: Tensor) -> Hop:
    link.receive((TensorSpec.of(ball),)).wait()
    start = time.perf_counter()
    link.send((ball,))
    return Hop((start - time.perf_counter()) / 2, 0.0)


def _world() -> dist.ProcessGroup:
    if (world := dist.group.WORLD) is None:
        raise RuntimeError("torch.distributed is not initialised")
    return world


def _gather(size: int, ranks: int, device: torch.device, group: dist.ProcessGroup) -> float:
    whole = torch.empty(size // ranks * ranks, dtype=torch.uint8, device=device)
    part = torch.zeros(size // ranks, dtype=torch.uint8, device=device)
    parts = list(whole.chunk(ranks))
    return _worst(lambda: dist.all_gather(parts, part, group), device, group)


def _reduce(size: int, ranks: int, device: torch.device, group: dist.ProcessGroup) -> float:
    numbers = size // 4 // ranks * ranks
    whole = list(torch.ones(numbers, device=device).chunk(ranks))
    part = torch.empty(numbers // ranks, device=device)
    return _worst(lambda: dist.reduce_scatter(part, whole, group=group), device, group)


def _worst(run: Callable[[], object], device: torch.device, group: dist.ProcessGroup) -> float:
    run()
    seconds = torch.tensor(median(timed(run, device) for _ in range(_REPEATS)), device=device)
    dist.all_reduce(seconds, dist.ReduceOp.MAX, group)
    return float(seconds)


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds until `run` has ended, on the device too."""
    start = time.perf_counter()
    run()
    clock_of(device).settle()
    return time.perf_counter() - start

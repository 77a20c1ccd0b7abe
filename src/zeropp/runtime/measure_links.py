"""What a link between ranks takes: messages by ping-pong, collectives on real process groups."""

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
import torch.distributed as dist

from zeropp.costs import Link

_SMALL = 64  # bytes of a message whose time is all latency
_ROUNDS = 30
_REPEATS = 5
_PAUSE_S = 0.01
SIZES = (2**14, 2**17, 2**20, 2**23, 2**25)


def measure_link(ranks: Sequence[int], per_node: int, device: torch.device) -> Link | None:
    """The link among `ranks`, measured while all of them use it; None if that is one rank.

    Collective, on all ranks of the world; they all get the same answer.

    Args:
        ranks: global ranks, at least the first and the last of which the link joins.
        per_node: how many of them share a node's link.
        device: where tensors are.
    """
    group = dist.new_group(list(ranks))
    if len(ranks) == 1:
        return None
    found: list[Link | None] = [None]
    if dist.get_rank() in ranks and group is not None:
        found[0] = _measure(ranks, per_node, device, group)
    dist.broadcast_object_list(found, src=ranks[0])
    if group is not None and dist.get_rank() in ranks:
        dist.destroy_process_group(group)
    return found[0]


def _measure(
    ranks: Sequence[int], per_node: int, device: torch.device, group: dist.ProcessGroup
) -> Link:
    latency = hop_seconds(ranks[0], ranks[-1], _SMALL, device, group)
    largest = SIZES[-1]
    carried = hop_seconds(ranks[0], ranks[-1], largest, device, group, rounds=_REPEATS)
    return Link(
        latency,
        largest / max(carried - latency, 1e-9),
        tuple((float(size), _gather(size, len(ranks), device, group)) for size in SIZES),
        tuple((float(size), _reduce(size, len(ranks), device, group)) for size in SIZES),
        len(ranks),
        per_node,
    )


def hop_seconds(
    first: int,
    last: int,
    size: int,
    device: torch.device,
    group: dist.ProcessGroup | None = None,
    rounds: int = _ROUNDS,
) -> float:
    """Seconds from one rank's send of `size` bytes to another's receive, by ping-pong.

    Rounds are a pause apart, as the messages of a pipeline are: without one, both ends would find
    in their caches all that a message needs, which no rank does after computing.

    Collective on `group`; every rank gets the first's answer. 0 between a rank and itself.
    """
    if first == last:
        return 0.0
    tensor = torch.zeros(size, dtype=torch.uint8, device=device)
    dist.barrier(group)

    def ping_pong() -> None:
        if dist.get_rank() == first:
            dist.send(tensor, last, group)
            dist.recv(tensor, last, group)
        elif dist.get_rank() == last:
            dist.recv(tensor, first, group)
            dist.send(tensor, first, group)

    ping_pong()
    seconds = torch.tensor(_median_of(ping_pong, rounds, device, _PAUSE_S) / 2, device=device)
    dist.broadcast(seconds, first, group)
    return float(seconds)


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
    seconds = torch.tensor(_median_of(run, _REPEATS, device), device=device)
    dist.all_reduce(seconds, dist.ReduceOp.MAX, group)
    return float(seconds)


def _median_of(
    run: Callable[[], object], rounds: int, device: torch.device, pause: float = 0.0
) -> float:
    return median(_timed(run, device, pause) for _ in range(rounds))


def _timed(run: Callable[[], object], device: torch.device, pause: float) -> float:
    time.sleep(pause)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start

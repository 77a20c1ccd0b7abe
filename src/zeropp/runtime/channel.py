"""What carries tensors between ranks: a process group for each direction and kind of traffic.

Separate groups keep a forward transfer from queueing behind a backward one on NCCL's streams. A
rank makes only its own, in an order common to all, so that both ends of each meet. `Transport` is
the seam behind which a rehearsal puts slower links.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist

from zeropp.ir.action import RECEIVES, Action
from zeropp.ir.placement import Placement
from zeropp.ir.precedence import Channel, channel_of, channels_of
from zeropp.runtime.block import Tensors
from zeropp.runtime.boundary import Specs, TensorSpec
from zeropp.runtime.compat import end_group, new_group
from zeropp.runtime.lane import Lane, ThreadLane
from zeropp.runtime.mesh import as_carried

_UNFINISHED = 2  # messages that a link may be sending before it waits for the oldest
_TAG = 0  # messages of a channel are told apart by their order


class Arrival(NamedTuple):
    """Tensors on their way, or made on this rank."""

    tensors: Tensors
    works: tuple[dist.Work, ...] = ()

    def wait(self) -> Tensors:
        """The tensors, once they are here (on a GPU: once the current stream may use them)."""
        for work in self.works:
            work.wait()
        return self.tensors


class PeerLink:
    """One channel's process group, seen from this rank, whose other end is global rank `peer`.

    gloo does not tell by itself that a message is gone, so a sender waits for its oldest message
    before it has too many under way, or it would keep all of a step's. This cannot deadlock, since
    programs are proven for senders that wait for every message. NCCL tells, and a wait there would
    hold up the compute stream, so it ends with the step.

    It calls the group itself: what `dist.isend` does before that takes as long again.
    """

    def __init__(self, group: dist.ProcessGroup, peer: int, device: torch.device) -> None:
        self._group, self._device = group, device
        self._peer = dist.get_group_rank(group, peer)
        self._sending: deque[Arrival] = deque()

    def send(self, tensors: Tensors) -> None:
        """Start sending; the tensors stay alive until they are sent."""
        while self._sending and all(work.is_completed() for work in self._sending[0].works):
            self._sending.popleft()
        while len(self._sending) >= _UNFINISHED and self._device.type == "cpu":
            self._sending.popleft().wait()
        data = tuple(map(as_carried, tensors))
        works = tuple(self._group.send([t], self._peer, _TAG) for t in data)
        self._sending.append(Arrival(data, works))

    def receive(self, specs: Specs) -> Arrival:
        """Post a receive."""
        tensors = tuple(spec.empty(self._device) for spec in specs)
        works = tuple(self._group.recv([as_carried(t)], self._peer, _TAG) for t in tensors)
        return Arrival(tensors, works)

    def flush(self) -> None:
        """Wait until everything is sent."""
        while self._sending:
            self._sending.popleft().wait()

    def close(self) -> None:
        """Destroy the process group."""
        end_group(self._group)


class Transport:
    """Makes what a pipeline communicates by: the process groups of torch.distributed."""

    def messages(
        self, placement: Placement, ranks: Sequence[int], device: torch.device
    ) -> "Channels":
        """Point-to-point of the pipeline with the global ranks `ranks`; collective on these."""
        return Channels(placement, ranks, device)

    def lane(self, device: torch.device) -> Lane:
        """Where this rank's collectives run: FSDP2's streams on a GPU, a thread on a CPU."""
        return ThreadLane() if device.type == "cpu" else Lane()


class Channels:
    """All channels of this rank, with their communicators made; `ranks` are the global ones of its
    pipeline, in order.
    """

    def __init__(self, placement: Placement, ranks: Sequence[int], device: torch.device) -> None:
        self._placement = placement
        self._links: dict[Channel, PeerLink] = {}
        me = ranks.index(dist.get_rank())
        mine = (c for c in channels_of(placement) if me in (c.source, c.destination))
        # pairs whose lower rank is even first: they meet all at once, and so do the others then
        for channel in sorted(mine, key=lambda c: min(c.source, c.destination) % 2):
            self._links[channel] = _open(channel, ranks, me, device)

    def send(self, action: Action, tensors: Tensors) -> None:
        """Start sending for a SEND action; the tensors stay alive until they are sent."""
        self._link(action).send(tensors)

    def receive(self, action: Action, specs: Specs) -> Arrival:
        """Post the receive of a RECV action."""
        assert action.kind in RECEIVES
        return self._link(action).receive(specs)

    def flush(self) -> None:
        """Wait until everything is sent."""
        for link in self._links.values():
            link.flush()

    def close(self) -> None:
        """Destroy the process groups."""
        for link in self._links.values():
            link.close()
        self._links.clear()

    def _link(self, action: Action) -> PeerLink:
        return self._links[channel_of(action, self._placement)]


def _open(channel: Channel, ranks: Sequence[int], me: int, device: torch.device) -> PeerLink:
    """Meet the other end, and pass one byte so that a communicator exists before the first step."""
    source, destination, kind = channel
    group = new_group((ranks[source], ranks[destination]), f"channel {kind}")
    link = PeerLink(group, ranks[destination if me == source else source], device)
    if me == source:
        link.send((torch.zeros(1, dtype=torch.uint8, device=device),))
        link.flush()
    else:
        link.receive((TensorSpec((1,), torch.uint8, False),)).wait()
    return link

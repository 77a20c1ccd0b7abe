"""Point-to-point between ranks: one process group for each direction and each kind of traffic.

Separate groups keep a forward transfer from queueing behind a backward one on NCCL's streams.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from zeropp.ir import Action, Placement
from zeropp.ir.action import RECEIVES, Kind
from zeropp.ir.precedence import Channel, channel_of, outgoing
from zeropp.runtime.boundary import Specs, TensorSpec
from zeropp.runtime.stage import Tensors

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
    programs are proven for senders that wait for every message.

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
        while len(self._sending) >= _UNFINISHED:
            self._sending.popleft().wait()
        data = tuple(tensor.contiguous() for tensor in tensors)
        works = tuple(self._group.send([_real(t)], self._peer, _TAG) for t in data)
        self._sending.append(Arrival(data, works))

    def receive(self, specs: Specs) -> Arrival:
        """Post a receive."""
        tensors = tuple(spec.empty(self._device) for spec in specs)
        works = tuple(self._group.recv([_real(t)], self._peer, _TAG) for t in tensors)
        return Arrival(tensors, works)

    def flush(self) -> None:
        """Wait until everything is sent."""
        while self._sending:
            self._sending.popleft().wait()

    def close(self) -> None:
        """Destroy the process group."""
        dist.destroy_process_group(self._group)


def _real(tensor: Tensor) -> Tensor:
    """Process groups carry no complex numbers; the same memory as real ones."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


class Channels:
    """All channels of this rank's pipeline, with their communicators made.

    Args:
        placement: stage -> rank.
        pipelines: for each pipeline of the world, the global ranks of its ranks, in order.
        device: where tensors are received.
    """

    def __init__(
        self,
        placement: Placement,
        pipelines: Sequence[Sequence[int]],
        device: torch.device,
    ) -> None:
        self._placement = placement
        self._links: dict[Channel, PeerLink] = {}
        me = dist.get_rank()
        for channel in _channels(placement):
            for ranks in pipelines:  # torch wants every rank at the birth of every group
                ends = (ranks[channel.source], ranks[channel.destination])
                group = dist.new_group(list(ends))
                if me in ends and group is not None:
                    link = PeerLink(group, ends[me == ends[0]], device)
                    self._links[channel] = link
                    _connect(link, sends=me == ends[0], device=device)

    def send(self, action: Action, tensors: Tensors) -> None:
        """Start sending for a SEND action; the tensors stay alive until they are sent."""
        self._link(action).send(tensors)

    def receive(self, action: Action, specs: Specs) -> Arrival:
        """Post the receive of a RECV action."""
        if action.kind not in RECEIVES:
            raise ValueError(f"{action} receives nothing")
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


def _channels(placement: Placement) -> list[Channel]:
    """Every channel between neighbouring stages, in an order that all ranks agree on."""
    passes = [Action(kind, s, 0) for s in range(placement.num_stages) for kind in (Kind.F, Kind.B)]
    sends = [send for action in passes if (send := outgoing(action, placement)) is not None]
    return sorted({channel_of(send, placement) for send in sends})


def _connect(link: PeerLink, *, sends: bool, device: torch.device) -> None:
    """Pass one byte, so that the communicator exists before the first step."""
    if sends:
        byte = torch.zeros(1, dtype=torch.uint8, device=device)
        link.send((byte,))
        link.flush()
    else:
        link.receive((TensorSpec((1,), torch.uint8, False),)).wait()

"""A store that knows nothing of ranks that were there before.

Torchrun's agent keeps one store for all starts of its ranks, and torch's process groups would read
the addresses of those that are gone. Rank 0 gives each start a name of its own, under which it then
meets. Nobody takes an old word for a new one, since every question is asked under a fresh name.
"""

import os
import time
import uuid
from datetime import timedelta

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from zeropp.launch import Launched

_PAUSE_S = 0.01
_LONGEST = timedelta(minutes=10)


def fresh_store(given: Launched) -> Store | None:
    """A store for these ranks alone; None: torch's own rendezvous makes one."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    shared = dist.TCPStore(  # type: ignore[attr-defined]
        address, port, is_master=False, timeout=_LONGEST
    )
    own = uuid.uuid4().hex
    name = _lead(shared, own, given.ranks) if given.rank == 0 else _follow(shared, own, given.rank)
    return PrefixStore(f"zeropp/{name}", shared)


def _lead(store: Store, name: str, ranks: int) -> str:
    """Answer every rank that asks, until all have said that they heard it; the name."""
    answered: dict[int, bytes] = {}
    missing = set(range(1, ranks))
    until = time.monotonic() + _LONGEST.total_seconds()
    while missing:
        for rank in sorted(missing):
            if store.check([f"zeropp/heard/{name}/{rank}"]):
                missing.discard(rank)
            elif store.check([f"zeropp/asks/{rank}"]):
                asked = store.get(f"zeropp/asks/{rank}")
                if answered.get(rank) != asked:
                    store.set(f"zeropp/answer/{asked.decode()}", name)
                    answered[rank] = asked
        if time.monotonic() > until:
            raise TimeoutError(f"ranks {sorted(missing)} did not start within {_LONGEST}")
        time.sleep(_PAUSE_S)
    return name


def _follow(store: Store, question: str, rank: int) -> str:
    """Ask under a fresh name; what rank 0 answers."""
    store.set(f"zeropp/asks/{rank}", question)
    name = store.get(f"zeropp/answer/{question}").decode()
    store.set(f"zeropp/heard/{name}/{rank}", "")
    return name

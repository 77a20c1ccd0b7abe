"""An explanation instead of a hang: what every rank was doing when one waited too long.

A thread on each rank looks at the action that the executor last began. Where that is older than
`timeout` seconds, it says so in the ranks' common store; then every rank prints its own place and
its latest actions, and all exit with status 1.
"""

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

import torch.distributed as dist

from zeropp.ir import Action, Placement
from zeropp.ir.deps import incoming, matching_send
from zeropp.runtime.compat import Store

_KEY = "zeropp/stalled"
_GRACE_S = 3.0  # for all ranks to see the key and print
_SHOWN = 8


class Watchdog:
    """Watches one rank.

    Args:
        placement: stage -> rank.
        rank: this rank's position in its pipeline.
        store: what the ranks share.
        timeout: seconds that one action may take; above 0.
        stop: ends the process.
    """

    def __init__(
        self,
        placement: Placement,
        rank: int,
        store: Store,
        timeout: float,
        stop: Callable[[int], None] = os._exit,
    ) -> None:
        if not timeout > 0:
            raise ValueError(f"timeout must be above 0 seconds, got {timeout}")
        self._placement, self._rank, self._store = placement, rank, store
        self._timeout, self._stop = timeout, stop
        self._latest: deque[Action | str] = deque(maxlen=_SHOWN)
        self._since: float | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def begin(self, what: Action | str) -> None:
        """The rank begins an action, or a phase of the step named in words."""
        self._latest.append(what)
        self._since = time.monotonic()

    def rest(self) -> None:
        """The rank is outside of a step, where it may take its time."""
        self._since = None

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        self._thread.join()

    def place(self) -> str:
        """Where this rank is: its action, what that awaits, and the actions before."""
        if not self._latest:
            return f"rank {dist.get_rank()}: has begun nothing"
        *before, now = self._latest
        waited = 0.0 if self._since is None else time.monotonic() - self._since
        lines = [
            f"rank {dist.get_rank()} (pipeline rank {self._rank}): {_words(now)} for {waited:.1f} s"
        ]
        if isinstance(now, Action) and (receive := incoming(now, self._placement)) is not None:
            send = matching_send(receive)
            peer = self._placement.rank_of(send.stage)
            lines.append(
                f"    awaits {send} (micro-batch {send.microbatch}) of pipeline rank {peer}"
            )
        lines.append("    before: " + " ".join(map(str, before)))
        return "\n".join(lines)

    def _watch(self) -> None:
        pause = min(1.0, self._timeout / 4)
        while not self._closed.wait(pause):
            since = self._since
            late = since is not None and time.monotonic() - since > self._timeout
            try:
                if late:
                    self._store.set(_KEY, str(dist.get_rank()))
                stalled = late or self._store.check([_KEY])
            except RuntimeError:  # the rank that hosts the store has left: the run is over
                return
            if stalled:
                self._give_up()
                return

    def _give_up(self) -> None:
        first = str(self._store.get(_KEY), "ascii")
        print(
            f"zeropp: rank {first} waited more than {self._timeout:g} s in one action; "
            f"all ranks stop\n{self.place()}",
            file=sys.stderr,
            flush=True,
        )
        time.sleep(_GRACE_S)
        self._stop(1)


def _words(what: Action | str) -> str:
    if isinstance(what, str):
        return what
    of = "" if what.microbatch is None else f", micro-batch {what.microbatch}"
    return f"in {what} ({what.kind} of stage {what.stage}{of})"

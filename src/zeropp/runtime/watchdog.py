"""An explanation instead of a hang: what failed on a rank, and what all did when one waited long.

What fails on a rank while it computes is written into the ranks' common store, so that the others
know within a second.

A thread on each rank looks at the action that the executor last began. Where that is older than
`timeout` seconds, it says so in the ranks' common store; then every rank prints its own place and
its latest actions, and all exit with status 1, at the latest `timeout` + 4 s after the fault.
"""

import atexit
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch.distributed as dist

from zeropp.ir.action import Action
from zeropp.ir.placement import Placement
from zeropp.ir.precedence import incoming, other_end
from zeropp.runtime.compat import Store

_KEY, _FAILED = "zeropp/stalled", "zeropp/failed"
_GRACE_S = 3.0  # for all ranks to see the key and print
_SHOWN = 8


class Watchdog:
    """Watches one rank.

    Args:
        placement: stage -> rank, of which this is one.
        timeout: seconds that one action may take; above 0.
        name: of the pipeline, the same on all its ranks, unlike any other's.
        stop: ends the process.

    Attributes:
        failed: what failed in this step, on this rank or, as far as known, on another.
    """

    def __init__(
        self,
        placement: Placement,
        rank: int,
        store: Store,
        timeout: float,
        name: str = "",
        stop: Callable[[int], None] = os._exit,
    ) -> None:
        self._placement, self._rank, self._store = placement, rank, store
        self._timeout, self._stop = timeout, stop
        self._latest: deque[Action | str] = deque(maxlen=_SHOWN)
        self._since: float | None = None
        self._ended: Callable[[], bool] | None = None  # tells when the device has
        self._name, self._steps = name, 0
        self.failed: str | None = None
        self._alone = False  # the store is gone; this rank goes by its own clock
        self._closed, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        # a thread that is inside of the store while the interpreter ends would abort the process
        atexit.register(self.close)

    def start(self) -> None:
        """The rank begins a step, as all do."""
        with self._lock:
            self._steps, self.failed = self._steps + 1, None

    def fail(self, action: Action, error: Exception) -> None:
        """Something failed in an action on this rank; the first word of all ranks counts."""
        said = f"rank {dist.get_rank()}, {_words(action)}: {type(error).__name__}: {error}"
        self.failed = str(self._store.compare_set(self._failure, "", said), "utf-8")

    def verdict(self) -> str:
        """What failed first, after some rank has said that something has."""
        return self.failed or str(self._store.get(self._failure), "utf-8")

    @property
    def _failure(self) -> str:
        return f"{_FAILED}/{self._name}/{self._steps}"

    def begin(self, what: Action | str) -> None:
        """The rank begins an action, or a phase of the step named in words."""
        self._latest.append(what)
        self._ended, self._since = None, time.monotonic()

    @contextmanager
    def during(self, what: Action | str) -> Iterator[None]:
        """The body is a phase, or begins others; an exception from it says where this rank was."""
        self.begin(what)
        try:
            yield
        except Exception as error:
            error.add_note(f"while in {self.place()}")
            self.rest()
            raise

    def rest(self, ended: Callable[[], bool] | None = None) -> None:
        """The rank is outside of a step and may take its time, once the device has `ended`."""
        if ended is None:
            self._since = None
        else:
            self.begin("in the device's work of the step")
            self._ended = ended

    def close(self) -> None:
        """Stop watching; a store that does not answer is left to itself after a while."""
        atexit.unregister(self.close)
        self._closed.set()
        self._thread.join(_GRACE_S)

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
            send = other_end(receive)
            on = self._placement.rank_of(send.stage)
            lines.append(f"    awaits {send} (micro-batch {send.microbatch}) of pipeline rank {on}")
        lines.append("    before: " + " ".join(map(str, before)))
        return "\n".join(lines)

    def _watch(self) -> None:
        pause = min(1.0, self._timeout / 4)
        while not self._closed.wait(pause):
            since = None if self._ended is not None and self._ended() else self._since
            late = since is not None and time.monotonic() - since > self._timeout
            if late:
                self._give_up(str(dist.get_rank()))
            elif (first := self._told(_KEY)) is not None:
                self._give_up(first)
            else:
                self._look_for_failures()
                continue
            return

    def _look_for_failures(self) -> None:
        if self._since is not None and not self.failed:
            with self._lock:
                self.failed = self._told(self._failure)

    def _told(self, key: str) -> str | None:
        """What some rank has written; None, from then on, where the store's host has left."""
        try:
            if not self._alone and self._store.check([key]):
                return str(self._store.get(key), "utf-8")
        except RuntimeError:
            self._alone = True
        return None

    def _give_up(self, first: str) -> None:
        print(
            f"zeropp: rank {first} waited more than {self._timeout:g} s in one action; "
            f"all ranks stop\n{self.place()}",
            file=sys.stderr,
            flush=True,
        )
        if not self._alone:
            try:
                self._store.set(_KEY, first)
            except RuntimeError:
                self._alone = True
        time.sleep(0.0 if self._alone else _GRACE_S)
        sys.stdout.flush()
        self._stop(1)


def _words(what: Action | str) -> str:
    if isinstance(what, str):
        return what
    of = "" if what.microbatch is None else f", micro-batch {what.microbatch}"
    return f"in {what} ({what.kind} of stage {what.stage}{of})"

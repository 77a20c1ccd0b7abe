"""A lane of questions: one process that answers them one by one, and of each sort only the newest.

A question that waits is dropped when a newer one of its sort comes, such as the next place of a
slider; one that has been answered for longer than a second is ended.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Hashable
from contextlib import suppress

_PATIENCE_S = 1.0


class Lane:
    """Answers from a process of its own, which is started by the first question."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._newest: dict[Hashable, int] = {}  # of each sort that is not answered yet
        self._asked = 0
        self._running: tuple[Hashable, float] | None = None  # its sort, and since when
        self._process: subprocess.Popen[str] | None = None

    def ask(self, sort: Hashable, question: str) -> str | None:
        """The answer; None if a newer question of the same sort has come meanwhile.

        Args:
            sort: what makes older questions out of date.
            question: in one line.
        """
        mine = self._begin(sort)
        if mine is None:
            return None
        try:
            return self._answered(sort, mine, question)
        finally:
            with self._changed:
                self._running = None
                if self._newest.get(sort) == mine:
                    del self._newest[sort]
                self._changed.notify_all()

    def _begin(self, sort: Hashable) -> int | None:
        """Wait for one's turn; one's number, or None if a newer question has come."""
        with self._changed:
            self._asked += 1
            mine = self._newest[sort] = self._asked
            self._changed.notify_all()
            while self._running is not None and self._newest.get(sort) == mine:
                self._end_what_is_late(sort)
                self._changed.wait(_PATIENCE_S / 4)
            if self._newest.get(sort) != mine:
                return None
            self._running = sort, time.monotonic()
            return mine

    def stop(self, sort: Hashable) -> None:
        """Nobody wants an answer of this sort any more."""
        with self._changed:
            self._newest.pop(sort, None)
            if self._running is not None and self._running[0] == sort:
                self._end()
            self._changed.notify_all()

    def _end_what_is_late(self, sort: Hashable) -> None:
        running, since = self._running or (None, 0.0)
        if running == sort and time.monotonic() - since > _PATIENCE_S:
            self._end()

    def _answered(self, sort: Hashable, mine: int, question: str) -> str | None:
        process = self._process or self._started()
        line = _line_of(process, question)
        if line:
            return line
        with self._changed:
            late = self._newest.get(sort) != mine
            self._process = None
        _bury(process)
        told = "it needs more memory than there is; ask for a smaller schedule"
        return None if late else json.dumps({"refused": told, "field": None})

    def _started(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "zeropp.explore.worker"]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, process_group=0)
        with self._changed:
            self._process = process
        return process

    def _end(self) -> None:
        """Who waits for its answer buries it."""
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """End the process."""
        with self._changed:
            process, self._process = self._process, None
        if process is not None:
            _bury(process)


def _line_of(process: subprocess.Popen[str], question: str) -> str:
    """Its answer; empty where it has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        print(question, file=process.stdin, flush=True)
        return process.stdout.readline()
    except (OSError, ValueError):  # it has ended before, or was buried
        return ""


def _bury(process: subprocess.Popen[str]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # what could not be written is lost with it
                pipe.close()
    process.wait()

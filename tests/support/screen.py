"""A program on a terminal: a real pseudo-terminal, and what its screen shows."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CODE = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|\r|\n|[^\x1b\r\n]|\x1b")


class Screen:
    """Runs a command on a terminal of its own.

    Args:
        command: to run.
        cwd: where.
        columns: of the terminal.
    """

    def __init__(self, command: list[str], cwd: Path, columns: int = 80) -> None:
        self._master, slave = pty.openpty()
        size = struct.pack("HHHH", 24, columns, 0, 0)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, size)
        self._slave, self.before = slave, termios.tcgetattr(slave)
        env = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env | {"TERM": "xterm"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        self.written = ""

    def settings(self) -> list[Any]:
        """Of the terminal, now."""
        return termios.tcgetattr(self._slave)

    def read_until(self, seen: Callable[[], bool], seconds: float = 120) -> None:
        """Read what is written until `seen` is true or the command has ended."""
        deadline = time.monotonic() + seconds
        while not seen():
            assert time.monotonic() < deadline, self.written[-2000:]
            ended = self.process.poll() is not None
            ready, _, _ = select.select([self._master], [], [], 0.2)
            if ready:
                self.written += os.read(self._master, 1 << 16).decode(errors="replace")
            elif ended:
                return

    def lines(self) -> list[str]:
        """What has been written, as a terminal of endless height shows it."""
        rows, row, column = [""], 0, 0
        for found in _CODE.finditer(self.written):
            what, (number, letter) = found[0], found.groups()
            if what == "\r":
                column = 0
            elif what == "\n":
                row += 1
                rows += [""] * (row + 1 - len(rows))
            elif letter == "A":
                row -= int(number or 1)
            elif letter == "K":
                rows[row] = "" if number == "2" else rows[row][:column]
            elif letter is None and what != "\x1b":
                rows[row] = rows[row][:column].ljust(column) + what + rows[row][column + 1 :]
                column += 1
        return [line.rstrip() for line in rows]

    def close(self) -> None:
        """End the command, if it still runs."""
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)

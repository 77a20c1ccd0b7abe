"""The view of a run on a terminal: its folder read a few times a second, below what is printed.

Nothing is asked of the ranks: they write metrics, warnings and checkpoints as they always do.
"""

import os
import statistics
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from zeropp.report.folder import CHECKPOINTS, METRICS, WARNINGS, Tail, starts_of, whole_lines
from zeropp.report.lines import WIDTH, dateless, unstamped

_WINDOW = 20  # steps, over which speed is taken
_TREND = 400  # losses that the small curve is made of
_BARS = "▁▂▃▄▅▆▇█"
_LATE_S = 2.0  # after which a step that is on its way is told
_REFRESH_S = 1.0


def is_shown() -> bool:
    """Whether standard output is a terminal that can be drawn on."""
    return sys.stdout.isatty() and os.environ.get("TERM") not in (None, "dumb")


class View:
    """Of one run, for as long as it is entered.

    Args:
        folder: of the run.
        steps: that it takes in all.
        terminal: a descriptor of it.
    """

    def __init__(self, folder: Path, steps: int, terminal: int) -> None:
        self.state = State(folder, steps)
        self._terminal, self._drawn = os.dup(terminal), time.monotonic()
        self._console = _Plain(
            file=os.fdopen(self._terminal, "w", errors="replace"), force_terminal=True
        )
        self._live = Live(
            console=self._console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> "View":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        self._console.file.close()

    def take(self, lines: list[str]) -> None:
        """Print lines above the view, and bring it up to date, where that is due."""
        self.state.hear(lines)
        now = time.monotonic()
        if not lines and now - self._drawn < _REFRESH_S:
            return
        self._drawn = now
        with suppress(OSError):  # the terminal is gone; the run is not
            size = os.get_terminal_size(self._terminal)
            self._console.width, self._console.height = max(size.columns, 20), max(size.lines, 4)
            for line in lines:
                self._console.print(Text.from_ansi(dateless(line)), soft_wrap=True)
            self._live.update(self.state.drawn(self._console.width), refresh=True)


class _Plain(Console):
    """Leaves the cursor as it is, so that nothing has to be mended after a process that dies."""

    def show_cursor(self, show: bool = True) -> bool:
        return False


class State:
    """What is known of a run that runs.

    Args:
        folder: of the run.
        steps: that it takes in all.
    """

    def __init__(self, folder: Path, steps: int) -> None:
        self._folder, self._steps = folder, steps
        self._metrics, self._warned = Tail(folder / METRICS), Tail(folder / WARNINGS)
        self._began, self._since = time.time(), time.monotonic()
        self._doing = "loading torch"
        self._warnings: deque[str] = deque(maxlen=2)
        self._own: deque[dict[str, Any]] = deque(maxlen=_WINDOW + 1)
        self._losses: deque[float] = deque(maxlen=_TREND)
        self._tokens, self._first, self._evaluated = 0.0, 0.0, dict[str, Any]()
        self._start: dict[str, Any] = {}
        self._warned.read()

    def hear(self, lines: Sequence[str]) -> None:
        """What was printed: the last of it says what is done."""
        for line in lines:
            told = unstamped(line)
            if told.strip() and not told.startswith("  "):  # which goes on with a line
                self._doing, self._since = told, time.monotonic()

    def look(self) -> None:
        """Read what is new in the folder."""
        for one in whole_lines(self._metrics.read()):
            if isinstance(one.get("loss"), float):
                self._losses.append(one["loss"])
            if one.get("time", 0.0) >= self._began:
                self._add(one)
        self._warnings.extend(self._warned.read().splitlines())
        if not self._start:
            starts = starts_of(self._folder)
            if starts and starts[-1].get("started", 0.0) >= self._began:
                self._start = starts[-1]

    def _add(self, one: dict[str, Any]) -> None:
        if not self._own:
            self._first = one["time"] - one["step_s"]
        self._tokens += one["tokens_per_s"] * one["step_s"]
        self._own.append(one)
        if "val_loss" in one:
            self._evaluated = one

    def drawn(self, columns: int) -> Group:
        """All of it, for a terminal of so many columns."""
        self.look()
        table = Table.grid(padding=(0, 1), expand=True)
        table.add_column(style="dim", no_wrap=True, width=7)
        table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        columns = min(columns, WIDTH + 40)
        for name, what in self._rows(columns - 9):
            table.add_row(name, what)
        return Group(Text("─" * columns, style="dim"), table)

    def _rows(self, room: int) -> list[tuple[str, Any]]:
        rows: list[tuple[str, Any]] = [("run", Text(str(self._folder), style="bold"))]
        if self._start:
            rows.append(("layout", self._start["layout"]))
        if self._own:
            rows += self._of_steps(self._own[-1], room)
        rows.append(("now", self._now()))
        rows += [("warned", Text(dateless(one), style="yellow")) for one in self._warnings]
        return rows

    def _of_steps(self, last: dict[str, Any], room: int) -> list[tuple[str, Any]]:
        bar = Table.grid(padding=(0, 1))
        done, steps = last["step"], self._steps
        bar.add_row(
            f"{done} of {steps}",
            ProgressBar(steps, done, width=max(10, room - 42)),
            f"{done / steps:.0%}",
            self._left(done),
        )
        rows: list[tuple[str, Any]] = [("step", bar), ("loss", self._loss(last, room))]
        rows.append(("speed", self._speed(last)))
        rows.append(("memory", self._memory(last)))
        saved = self._saved()
        return rows + ([("saved", saved)] if saved else [])

    def _left(self, done: int) -> str:
        times = [one["time"] for one in self._own]
        each = [b - a for a, b in pairwise(times)]
        if not each:
            return ""
        return f"{duration((self._steps - done) * statistics.fmean(each))} left"

    def _loss(self, last: dict[str, Any], room: int) -> str:
        loss = "not finite" if last["loss"] is None else f"{last['loss']:.4f}"
        text = f"  lr {last['lr']:.2e}  grad norm {_number(last['grad_norm'])}"
        if self._evaluated.get("val_loss") is not None:
            text = f"  validation {self._evaluated['val_loss']:.4f}{text}"
        width = max(0, min(30, room - len(loss) - len(text) - 1))
        return f"{loss} {sparkline([*self._losses], width)}{text}"

    def _speed(self, last: dict[str, Any]) -> str:
        window = [*self._own]
        tokens = sum(one["tokens_per_s"] * one["step_s"] for one in window[1:])
        passed = window[-1]["time"] - window[0]["time"]
        now = tokens / passed if passed > 0 else last["tokens_per_s"]
        whole = self._tokens / max(last["time"] - self._first, 1e-9)
        text = f"{now:,.0f} tokens/s, {whole:,.0f} since the start"
        if last.get("mfu") is not None:
            text += f"  MFU {last['mfu']:.1%}"
        if "bubble" in self._evaluated:
            one = self._evaluated
            text += f"  bubble {one['bubble']:.1%}, {one['bubble_predicted']:.1%} predicted"
        return text

    def _memory(self, last: dict[str, Any]) -> str:
        held, whole = last.get("memory_gib"), self._start.get("device_gib")
        if held is None:
            return ""
        share = (
            f", {held / whole:.0%} of {whole:.0f} GiB ({self._start['device']})" if whole else ""
        )
        return f"{held:.2f} GiB on the fullest rank{share}"

    def _saved(self) -> str | None:
        found = []
        try:
            for path in (self._folder / CHECKPOINTS).glob("step-*"):
                found.append((path.stat().st_mtime, path.name))
        except OSError:  # one that is being removed
            return None
        if not found:
            return None
        when, name = max(found)
        return f"{name}, {duration(time.time() - when)} ago"

    def _now(self) -> str:
        if not self._own:
            return f"{self._doing}  {duration(time.monotonic() - self._since)}"
        last = self._own[-1]
        passed = time.time() - last["time"]
        if last["step"] >= self._steps:
            return f"{self._doing}  {duration(time.monotonic() - self._since)}"
        late = f", for {duration(passed)}" if passed > max(_LATE_S, 3 * last["step_s"]) else ""
        return f"step {last['step'] + 1}{late}"


def sparkline(values: Sequence[float], width: int) -> str:
    """A small curve of so many columns: of each the mean of its values."""
    count = min(width, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)] if count else []
    means = [statistics.fmean(values[a:b]) for a, b in pairwise(edges)]
    if not means:
        return ""
    low, span = min(means), max(means) - min(means)
    return "".join(
        _BARS[round((one - low) / span * (len(_BARS) - 1)) if span else 0] for one in means
    )


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, the largest two."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3f}"

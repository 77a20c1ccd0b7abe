"""What a run writes down: a line of metrics.jsonl a step, and words for who looks on."""

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from errno import ENOSPC
from functools import partial
from pathlib import Path
from typing import Any

from zeropp.ir.files import write_text
from zeropp.report.folder import METRICS, WARNINGS, whole_lines
from zeropp.report.lines import stamped, tell, warn
from zeropp.train.writers import Writer

_GIB = 2**30


def rewind(folder: Path, step: int) -> None:
    """Leave out of metrics.jsonl what is of later steps than `step`, and what was half written."""
    path = folder / METRICS
    if not path.exists():
        return
    found = whole_lines(path.read_text(encoding="utf-8", errors="replace"))
    kept = "".join(json.dumps(one) + "\n" for one in found if one["step"] <= step)
    write_text("run.folder", path, kept)


class Log:
    """Of one rank; only the first writes and speaks.

    Args:
        folder: of the run.
        steps: that it takes in all.
        leads: whether this is the first rank.
    """

    def __init__(self, folder: Path, steps: int, leads: bool) -> None:
        self._folder, self._steps, self._leads = folder, steps, leads
        self._writers: list[Writer] = []
        self._troubles: set[object] = set()

    def add(self, makers: Mapping[str, Callable[[], Writer]]) -> None:
        """Writers to which metrics go, too, by the options that ask for them."""
        for name, make in makers.items() if self._leads else ():
            try:
                self._writers.append(make())
            except Exception as error:  # whatever another house's code raises
                self._lose(name, error)

    def say(self, what: object) -> None:
        """Print it once."""
        if self._leads:
            tell(what)

    def warn(self, what: object) -> None:
        """Print it once, where errors go, and keep it."""
        if self._leads:
            warn(what)
            self._append(self._folder / WARNINGS, stamped(what), "warnings are not kept")

    def write(self, metrics: Mapping[str, Any], picture: Path | None = None) -> None:
        """One step's numbers; what is not finite is null. A disk that is full is told once, and
        the run goes on.

        Args:
            metrics: of the step.
            picture: of it, where one was drawn.
        """
        if not self._leads:
            return
        finite = {k: v if _is_finite(v) else None for k, v in metrics.items()}
        lost = "metrics are lost until that is mended"
        self._append(self._folder / METRICS, json.dumps(finite), lost)
        drawn = picture if picture is not None and picture.exists() else None
        for writer in [*self._writers]:
            self._hand(writer, finite, drawn)
        if metrics["step"] % 10 == 0 or metrics["step"] == 1 or "val_loss" in metrics:
            self.say(self._line(metrics))

    def keep(self, path: Path, write: Callable[[], None], lost: str) -> None:
        """Write a file of the run; where that cannot be done it is told once, until it can be, with
        what is `lost`, and the run goes on.
        """
        try:
            write()
            self.trouble(path, None)
        except (OSError, ValueError) as error:
            why = getattr(error.__cause__ or error, "strerror", None) or error
            self.trouble(path, f"{path}: {why}; {lost}")

    def trouble(self, what: object, said: str | None) -> None:
        """Warn of what may last, once until it is over, which is None."""
        if said is None:
            self._troubles.discard(what)
        elif what not in self._troubles:
            self._troubles.add(what)
            self.warn(said)

    def close(self) -> None:
        """The writers have all that they were given."""
        for writer in self._writers:
            try:
                writer.close()
            except Exception as error:  # whatever another house's code raises
                self._lose(writer.name, error)

    def look_at_disk(self, path: Path, wanted: int) -> None:
        """Warn where a checkpoint of `wanted` bytes, which is begun now, will hardly fit."""
        if not self._leads or not path.exists():
            return
        free = shutil.disk_usage(path).free
        said = (
            f"{path}: a checkpoint takes {wanted / _GIB:.2f} GiB and {free / _GIB:.2f} are free; "
            "free some, or lower run.keep_last"
        )
        self.trouble("room", said if free < 2 * wanted else None)

    def _append(self, path: Path, text: str, lost: str) -> None:
        self.keep(path, partial(_append, path, f"{text}\n".encode()), lost)

    def _hand(self, writer: Writer, metrics: Mapping[str, Any], picture: Path | None) -> None:
        try:
            writer.write(metrics, picture)
        except Exception as error:  # whatever another house's code raises
            self._writers.remove(writer)
            self._lose(writer.name, error)

    def _lose(self, name: str, error: Exception) -> None:
        why = " ".join(str(error).split()) or type(error).__name__
        self.warn(f"{name}: {why}; nothing more is written there, the run goes on")

    def _line(self, metrics: Mapping[str, Any]) -> str:
        parts = [
            f"step {metrics['step']:>5}/{self._steps}",
            f"loss {metrics['loss']:.4f}",
            f"grad norm {metrics['grad_norm']:.3f}",
            f"{metrics['tokens_per_s']:>7.0f} tokens/s",
            f"{metrics['step_s'] * 1e3:.0f} ms",
        ]
        if metrics.get("mfu") is not None:
            parts.append(f"MFU {metrics['mfu']:.1%}")
        line = "  ".join(parts)
        if "val_loss" not in metrics:
            return line
        return line + (
            f"\n  validation {metrics['val_loss']:.4f}  bubble ratio "
            f"{metrics['bubble_predicted']:.1%} predicted, {metrics['bubble']:.1%} measured"
            f"\n  memory {metrics['memory_gib']:.2f} GiB  lr {metrics['lr']:.2e}"
        )


def _append(path: Path, line: bytes) -> None:
    """A whole line or none: what a full disk takes of one is given back."""
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            if file.write(line) < len(line):
                raise OSError(ENOSPC, os.strerror(ENOSPC))
        except OSError:
            file.truncate(before)
            raise


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)

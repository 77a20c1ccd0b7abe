"""What a run writes down: a line of metrics.jsonl a step, and words for who looks on."""

import json
import math
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from zeropp.ir.files import write_text

METRICS = "metrics.jsonl"


def rewind(folder: Path, step: int) -> None:
    """Leave out of metrics.jsonl what is of later steps than `step`, and what was half written."""
    path, kept = folder / METRICS, []
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError):
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
    write_text("run.folder", path, "".join(kept))


class Log:
    """Of one rank; only the first writes and speaks.

    Args:
        folder: of the run.
        steps: that it takes in all.
        leads: whether this is the first rank.
    """

    def __init__(self, folder: Path, steps: int, leads: bool) -> None:
        self._path, self._steps, self._leads = folder / METRICS, steps, leads
        self._failing = False

    def say(self, what: object) -> None:
        """Print it once."""
        if self._leads:
            print(what, flush=True)

    def warn(self, what: object) -> None:
        """Print it once, where errors go."""
        if self._leads:
            print(f"zeropp: {what}", file=sys.stderr, flush=True)

    def write(self, metrics: Mapping[str, Any]) -> None:
        """One step's numbers; what is not finite is null. A disk that is full is told once, and
        the run goes on.
        """
        if not self._leads:
            return
        finite = {k: v if _is_finite(v) else None for k, v in metrics.items()}
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(finite) + "\n")
            self._failing = False
        except OSError as error:
            if not self._failing:
                self.warn(f"{self._path}: {error.strerror}; metrics are lost until that is mended")
            self._failing = True
        if metrics["step"] % 10 == 0 or metrics["step"] == 1 or "val_loss" in metrics:
            self.say(self._line(metrics))

    def look_at_disk(self, path: Path, wanted: int) -> None:
        """Warn where a checkpoint of `wanted` bytes, which is begun now, will hardly fit."""
        if not self._leads or not path.exists():
            return
        free = shutil.disk_usage(path).free
        if free < 2 * wanted:
            gib = 2**30
            self.warn(
                f"{path}: a checkpoint takes {wanted / gib:.2f} GiB and {free / gib:.2f} are free; "
                "free some, or lower run.keep_last"
            )

    def _line(self, metrics: Mapping[str, Any]) -> str:
        line = (
            f"step {metrics['step']:>5}/{self._steps}  loss {metrics['loss']:.4f}  "
            f"grad norm {metrics['grad_norm']:.3f}  {metrics['tokens_per_s']:>8.0f} tokens/s  "
            f"{metrics['step_s'] * 1e3:.0f} ms"
        )
        if "val_loss" not in metrics:
            return line
        return line + (
            f"  validation {metrics['val_loss']:.4f}  bubble ratio "
            f"{metrics['bubble_predicted']:.1%} predicted, {metrics['bubble']:.1%} measured"
        )


def _is_finite(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)

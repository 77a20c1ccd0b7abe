"""The files of a run's folder, by name, and read as far as they are there and whole."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from zeropp.ir.files import write_text

CONFIG, PLAN, PROGRAM = "config.toml", "plan.toml", "program.txt"
METRICS = "metrics.jsonl"  # an object a step
ENVIRONMENT = "environment.json"  # a list: an object a start
MEMORY = "memory.json"  # bytes by category, predicted and measured, an object a rank
WARNINGS = "warnings.txt"  # with time stamps
TIMELINE = "timeline.json"  # the last measured step and its prediction, as a Chrome trace
PICTURE = "timeline.png"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"

Metrics = Mapping[str, Any]


def whole_lines(text: str) -> Iterator[dict[str, Any]]:
    """The steps in lines of metrics; what was half written, or is none, is passed over."""
    for line in text.splitlines():
        with suppress(ValueError):
            made = json.loads(line)
            if isinstance(made, dict) and isinstance(made.get("step"), int):
                yield made


def read_json(path: Path) -> Any:
    """What a file of JSON holds; None where it is not there, or no JSON."""
    with suppress(OSError, ValueError):
        return json.loads(path.read_text(encoding="utf-8"))
    return None


def starts_of(folder: Path) -> list[dict[str, Any]]:
    """What is known of every start of a run, the first first."""
    found = read_json(folder / ENVIRONMENT)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def add_start(folder: Path, start: Mapping[str, Any]) -> None:
    """Write down one more; ValueError where the folder cannot be written."""
    text = json.dumps([*starts_of(folder), dict(start)], indent=1) + "\n"
    write_text("run.folder", folder / ENVIRONMENT, text)


class Tail:
    """Follows a file that grows by lines.

    Args:
        path: of it; it need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._at = path, 0
        self._left = b""
        self._file = (0, 0)

    def read(self) -> str:
        """Whole lines that are new; all of them where the file was replaced."""
        try:
            with self._path.open("rb") as file:
                seen = os.fstat(file.fileno())
                if (seen.st_dev, seen.st_ino) != self._file or seen.st_size < self._at:
                    self._file, self._at, self._left = (seen.st_dev, seen.st_ino), 0, b""
                file.seek(self._at)
                new = file.read()
        except OSError:
            return ""
        self._at += len(new)
        whole, end, self._left = (self._left + new).rpartition(b"\n")
        return (whole + end).decode(errors="replace")

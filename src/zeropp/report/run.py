"""One run as its folder tells it, whatever state it is in: what is missing is None or empty."""

import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zeropp.ir.files import explained
from zeropp.report.folder import (
    CHECKPOINTS,
    CONFIG,
    MEMORY,
    METRICS,
    PLAN,
    PROGRAM,
    TIMELINE,
    WARNINGS,
    read_json,
    starts_of,
    whole_lines,
)

_RUNNING_S = 60.0  # after its last step a run may still run


@dataclass(frozen=True)
class Kept:
    """A checkpoint."""

    name: str
    bytes: int
    written: float  # seconds since the epoch


@dataclass(frozen=True)
class Box:
    """An action in a timeline; milliseconds."""

    rank: int
    name: str
    kind: str
    chunk: int
    start: float
    length: float


@dataclass(frozen=True)
class Run:
    """What is known of a run.

    Attributes:
        name: of the folder.
        folder: as it was given.
        steps: the lines of metrics, by their steps, each with `tokens` and `hours` until then.
        config: as it was resolved.
        plan: of a plan file; what was predicted is in its table `predicted`.
        starts: of every start, the first first.
        memory: bytes by category of each rank, `predicted` (or None) and `measured`.
        timelines: of the last evaluated step, by name: predicted and measured.
        checkpoints: those that are kept, the first first.
        warnings: with time stamps.
        program: the header of what ran.
    """

    name: str
    folder: Path
    steps: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any]
    plan: Mapping[str, Any]
    starts: Sequence[Mapping[str, Any]]
    memory: Mapping[str, Any]
    timelines: Mapping[str, Sequence[Box]]
    checkpoints: Sequence[Kept]
    warnings: Sequence[str]
    program: str

    @property
    def wanted(self) -> int | None:
        """Steps that it was to make; None where nothing says so."""
        asked = self.config.get("run", {}).get("steps")
        return asked if isinstance(asked, int) else None

    def state(self, now: float) -> str:
        """How far it is."""
        if not self.steps:
            return "no step yet"
        last = self.steps[-1]
        if self.wanted is not None and last["step"] >= self.wanted:
            return "finished"
        age = now - last.get("time", 0.0)
        if 0 <= age < max(_RUNNING_S, 10 * last.get("step_s", 0.0)):
            return f"running, last step {age:.0f} s before this page was made"
        return f"ended after step {last['step']}"


def read_run(folder: Path) -> Run:
    """The run in a folder.

    Raises:
        ValueError: there is none, or its files may not be read.
    """
    with explained("run: cannot read", folder):
        if not folder.is_dir():
            raise OSError("it is no folder; name that of a run, such as runs/demo")
        if not any((folder / name).is_file() for name in (CONFIG, METRICS)):
            raise OSError(f"it holds no run, as neither {CONFIG} nor {METRICS} is there")
        starts = starts_of(folder)
        lines = [*whole_lines(_text(folder / METRICS))]
        memory = read_json(folder / MEMORY)
        return Run(
            name=folder.resolve().name,
            folder=folder,
            steps=_totalled(lines, {one.get("step") for one in starts}),
            config=_toml(folder / CONFIG),
            plan=_toml(folder / PLAN),
            starts=starts,
            memory=memory if isinstance(memory, dict) else {},
            timelines=_timelines(read_json(folder / TIMELINE)),
            checkpoints=[*_checkpoints(folder / CHECKPOINTS)],
            warnings=_text(folder / WARNINGS).splitlines(),
            program=_text(folder / PROGRAM).partition("\nrank ")[0],
        )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _toml(path: Path) -> dict[str, Any]:
    with suppress(tomllib.TOMLDecodeError):
        return tomllib.loads(_text(path))
    return {}


def _totalled(lines: list[dict[str, Any]], begun: set[Any]) -> list[dict[str, Any]]:
    """With the tokens and the hours until the end of each step; no pause between two starts counts.

    Of a step that was made twice the last line counts.
    """
    tokens, seconds, made = 0.0, 0.0, []
    before: float | None = None
    for one in {line["step"]: line for line in lines}.values():
        took, now = one.get("step_s") or 0.0, one.get("time")
        tokens += (one.get("tokens_per_s") or 0.0) * took
        if before is None or now is None or one["step"] - 1 in begun:
            seconds += took
        else:
            seconds += max(now - before, took)
        before = now
        made.append(one | {"tokens": tokens, "hours": seconds / 3600})
    return made


def _checkpoints(folder: Path) -> Iterator[Kept]:
    found = [path for path in folder.glob("step-*") if path.name[5:].isdecimal()]
    for path in sorted(found, key=lambda path: int(path.name[5:])):
        with suppress(OSError):  # it is being removed
            size = sum(file.stat().st_size for file in path.iterdir())
            yield Kept(path.name, size, path.stat().st_mtime)


def _timelines(trace: Any) -> dict[str, list[Box]]:
    """Of a Chrome trace that `show` has written: a process a timeline, a thread a rank."""
    events = trace.get("traceEvents", []) if isinstance(trace, dict) else []
    names: dict[Any, str] = {}
    for event in events:
        if event.get("ph") == "M" and event["name"] == "process_name":
            names[event["pid"]] = event["args"]["name"]
        if event.get("ph") == "M" and event["name"] == "thread_name":
            names[event["pid"], event["tid"]] = event["args"]["name"]
    found: dict[str, list[Box]] = {}
    for event in events:
        rank = names.get((event["pid"], event.get("tid")), "").removeprefix("rank ")
        if event.get("ph") == "X" and rank.isdecimal():
            times = event["ts"] / 1e3, event["dur"] / 1e3
            what = event["name"], event["cat"], event["args"]["chunk"]
            found.setdefault(names[event["pid"]], []).append(Box(int(rank), *what, *times))
    return found


def moment(seconds: float) -> str:
    """Local time, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))

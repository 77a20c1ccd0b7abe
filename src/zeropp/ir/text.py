"""Text form of schedules and programs: `key: value` lines, then one line of actions per rank.

zeropp schedule
name: 1f1b
placement: loop
pp_size: 2
num_chunks: 1
units: 3
params:
rank 0: 0F0 0F1 0BW0 0F2 0BW1 0BW2
rank 1: 1F0 1BW0 1F1 1BW1 1F2 1BW2

A program's header goes on with `shard` and `max_resident`, each possibly `none`, and, where they
are given, `split` (blocks in each stage) and `recompute`.
"""

import re
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from zeropp.ir.action import COMPUTE, SHARDING, Action, Kind
from zeropp.ir.files import read_text
from zeropp.ir.placement import Placement, Shape
from zeropp.ir.program import Policy, Program, Recompute
from zeropp.ir.schedule import Schedule

_ACTION = re.compile(r"(\d{1,18})([A-Z_]+)(\d{0,18})")
_LARGEST = 10**7  # of what the actions do not bound
_Choice = TypeVar("_Choice", bound=StrEnum)
_SCHEDULE, _PROGRAM = "zeropp schedule", "zeropp program"

Header = dict[str, str]
Ranks = tuple[tuple[Action, ...], ...]


def format_schedule(schedule: Schedule) -> str:
    """The text of a schedule; `parse` reads it back."""
    return _format(_SCHEDULE, schedule, {}, schedule.actions)


def format_program(program: Program) -> str:
    """The text of a program; `parse` reads it back."""
    limit = "none" if program.max_resident is None else str(program.max_resident)
    header = {"shard": program.shard or "none", "max_resident": limit}
    if program.split is not None:
        header["split"] = " ".join(map(str, program.split))
    if program.recompute is not None:
        header["recompute"] = program.recompute.value
    return _format(_PROGRAM, program.schedule, header, program.actions)


def _format(kind: str, schedule: Schedule, more: Header, actions: Ranks) -> str:
    placement = schedule.placement
    fields = {
        "name": schedule.name,
        "placement": placement.shape.value,
        "pp_size": str(placement.pp_size),
        "num_chunks": str(placement.num_chunks),
        "units": " ".join(map(str, schedule.units)),
        "params": " ".join(f"{key}={value}" for key, value in schedule.params),
        **more,
        **{f"rank {rank}": " ".join(map(str, order)) for rank, order in enumerate(actions)},
    }
    lines = [f"{key}: {value}".rstrip() for key, value in fields.items()]
    return "\n".join([kind, *lines]) + "\n"


def parse(text: str) -> Schedule | Program:
    """Read a schedule or a program; raise ValueError with the line that is not understood."""
    lines = [line.strip() for line in text.splitlines()]
    if not lines or lines[0] not in (_SCHEDULE, _PROGRAM):
        raise ValueError(f"line 1: expected {_SCHEDULE!r} or {_PROGRAM!r}")
    header, actions = _parse_body(lines[1:])
    if lines[0] == _SCHEDULE:
        return _to_schedule(header, actions)
    shard, limit = _take(header, "shard"), _take(header, "max_resident")
    split, recompute = header.pop("split", None), header.pop("recompute", None)
    compute = tuple(tuple(a for a in order if a.kind in COMPUTE) for order in actions)
    return Program(
        schedule=_to_schedule(header, compute),
        actions=actions,
        shard=None if shard == "none" else _one_of(Policy, "shard", shard),
        max_resident=None if limit == "none" else _bounded("max_resident", limit),
        split=None if split is None else tuple(_bounded("split", size) for size in split.split()),
        recompute=None if recompute is None else _one_of(Recompute, "recompute", recompute),
    )


def read_file(what: str, path: Path) -> Schedule | Program:
    """What a file of this text holds.

    Raises:
        ValueError: unreadable, or not understood; begins with `what`, an option.
    """
    text = read_text(what, path)
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"{what}: {path}: {error}") from error


def _parse_body(lines: list[str]) -> tuple[Header, Ranks]:
    header: Header = {}
    ranks: list[tuple[Action, ...]] = []
    for number, line in enumerate(lines, start=2):
        if not line:
            continue
        key, colon, value = line.partition(":")
        try:
            if not colon or key in header:
                raise ValueError(f"expected a new `key: value`, got {line[:60]!r}")
            if not key.startswith("rank "):
                header[key] = value.strip()
            elif key != f"rank {len(ranks)}":
                raise ValueError(f"expected 'rank {len(ranks)}', got {key!r}")
            else:
                ranks.append(tuple(map(_parse_action, value.split())))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
    return header, tuple(ranks)


def _parse_action(text: str) -> Action:
    match = _ACTION.fullmatch(text)
    if match is None or match[2] not in Kind.__members__:
        raise ValueError(f"unknown action {text[:60]!r}; expected such as 0F3, 2BW0 or 1UNSHARD")
    kind = Kind[match[2]]
    if (kind in SHARDING) == bool(match[3]):
        wants = "takes no" if kind in SHARDING else "needs a"
        raise ValueError(f"action {text!r}: {kind} {wants} micro-batch number")
    return Action(kind, int(match[1]), int(match[3]) if match[3] else None)


def _to_schedule(header: Header, actions: Ranks) -> Schedule:
    name, shape = _take(header, "name"), _one_of(Shape, "placement", _take(header, "placement"))
    pp_size, num_chunks = (_integer(key, _take(header, key)) for key in ("pp_size", "num_chunks"))
    units = _integers("units", _take(header, "units"))
    pairs = (pair.partition("=") for pair in _take(header, "params").split())
    params = tuple((key, value) for key, _, value in pairs)
    if header:
        raise ValueError(f"unknown field {next(iter(header))[:60]!r}")
    forwards, written = pp_size * num_chunks * sum(units), sum(map(len, actions))
    if forwards > 1000 + 10 * written:  # what lacks would be told one by one
        needs = f"pp_size, num_chunks, units: they need {forwards} forwards"
        raise ValueError(f"{needs}, the file has {written} actions; correct them")
    return Schedule(name, Placement(shape, pp_size, num_chunks), units, actions, params)


def _take(header: Header, key: str) -> str:
    if key not in header:
        raise ValueError(f"missing field {key!r}")
    return header.pop(key)


def _one_of(choices: type[_Choice], field: str, text: str) -> _Choice:
    if text not in list(choices):
        raise ValueError(f"{field} must be one of {', '.join(choices)}, got {text!r}")
    return choices(text)


def _integers(field: str, text: str) -> tuple[int, ...]:
    return tuple(_integer(field, part) for part in text.split())


def _integer(field: str, text: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise ValueError(f"{field} must be a whole number, got {text[:60]!r}")
    return int(text)


def _bounded(field: str, text: str) -> int:
    value = _integer(field, text)
    if value > _LARGEST:
        raise ValueError(f"{field} must be at most {_LARGEST}, got {value}")
    return value

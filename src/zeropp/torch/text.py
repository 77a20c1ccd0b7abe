"""Orders as torch writes them: the names of actions, and the CSV files that its runtime loads.

    ours   F  B  W  BW  UNSHARD  RESHARD  REDUCE
    torch  F  I  W  B   UNSHARD  RESHARD  REDUCE_GRAD

A file (torch's format `compute_only`) has a row for each rank and an action in each cell, such as
`0F0,0F1,2F0`; torch leaves cells empty where a rank waits, and writes what it runs overlapped as
`(1F3;2B0)OVERLAP_F_B`, which is the one after the other.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from zeropp.ir import Action, Kind, Placement, Program, Schedule, Shape, parse
from zeropp.ir.files import read_text

_NAMES = {
    Kind.F: "F",
    Kind.B: "I",
    Kind.W: "W",
    Kind.BW: "B",
    Kind.UNSHARD: "UNSHARD",
    Kind.RESHARD: "RESHARD",
    Kind.REDUCE: "REDUCE_GRAD",
}
_KINDS = {"F": Kind.F, "I": Kind.B, "W": Kind.W, "B": Kind.BW}
_ACTION = re.compile(r"(\d{1,9})([FIWB])(\d{1,9})")
_OVERLAPPED = re.compile(r"\((.+)\)OVERLAP_F_B")


def torch_names(order: Iterable[Action]) -> list[str]:
    """A rank's actions as torch writes them, without messages, which torch puts in itself."""
    return [
        f"{stage}{_NAMES[kind]}{'' if m is None else m}"
        for kind, stage, m in order
        if kind in _NAMES
    ]


def format_csv(schedule: Schedule) -> str:
    """The compute actions of a schedule, for `_load_csv` of torch's runtime."""
    return "".join(",".join(torch_names(order)) + "\n" for order in schedule.actions)


def parse_csv(text: str) -> Schedule:
    """The schedule in torch's CSV; all its micro-batches are one unit.

    Raises:
        ValueError: the line that is not understood, or stages that lie neither as a loop nor as a
            vee over the ranks.
    """
    rows = list(csv.reader(io.StringIO(text)))
    while rows and not any(rows[-1]):
        rows.pop()
    actions = tuple(tuple(_actions(number, row)) for number, row in enumerate(rows, start=1))
    if not any(actions):
        raise ValueError("line 1: expected the actions of rank 0, such as 0F0,0F1,2F0")
    B = 1 + max(a.microbatch or 0 for order in actions for a in order)
    if sum(map(len, actions)) < B:  # what lacks would be told one by one
        raise ValueError(f"there is a micro-batch {B - 1}, and fewer actions than that")
    return Schedule("torch-csv", _placement(actions), (B,), actions)


def read(what: str, path: Path) -> Schedule | Program:
    """What a file holds: torch's CSV if its name ends in .csv, else our text.

    Raises:
        ValueError: unreadable, or not understood; begins with `what`, an option.
    """
    return understood(what, path, read_text(what, path))


def understood(what: str, path: Path, text: str) -> Schedule | Program:
    """The same of the text of a file that may not be here; ValueError if it is not understood."""
    try:
        return parse_csv(text) if path.suffix == ".csv" else parse(text)
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{what}: {path}: {error}") from error


def _actions(number: int, row: list[str]) -> Iterator[Action]:
    for cell in filter(None, map(str.strip, row)):
        overlapped = _OVERLAPPED.fullmatch(cell)
        for text in overlapped[1].split(";") if overlapped else [cell]:
            match = _ACTION.fullmatch(text)
            if match is None:
                raise ValueError(
                    f"line {number}: unknown action {text[:60]!r}; expected compute alone, such as "
                    "0F3, 2I0, 2W0 or 1B2 (torch's compute_only)"
                )
            yield Action(_KINDS[match[2]], int(match[1]), int(match[3]))


def _placement(actions: tuple[tuple[Action, ...], ...]) -> Placement:
    held = [tuple(sorted({a.stage for a in order})) for order in actions]
    for shape in Shape:
        placement = Placement(shape, len(held), max(map(len, held)))
        if held == [placement.stages_of(rank) for rank in range(len(held))]:
            return placement
    raise ValueError(
        f"line 1: rank 0 has the stages {' '.join(map(str, held[0][:20]))}, and the ranks together "
        "are neither laid out as a loop (s mod P) nor as a vee (there and back)"
    )

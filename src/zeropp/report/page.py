"""Runs as one page of HTML that needs no network: tables here, curves drawn by plotly inside."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from importlib.resources import files
from pathlib import Path

from zeropp.ir.files import write_text
from zeropp.report import tables
from zeropp.report.curves import data_of
from zeropp.report.run import Run, moment, read_run


def write_report(folders: Sequence[Path], output: Path) -> None:
    """Write a page about the runs in these folders.

    Raises:
        ValueError: a folder that holds no run, or a file that cannot be written.
    """
    runs = _told_apart([read_run(folder) for folder in folders])
    write_text("output", output, page(runs, time.time()))


def _told_apart(runs: Sequence[Run]) -> list[Run]:
    """Runs of one name get that of their path, as it was given."""
    names = [run.name for run in runs]
    return [
        replace(run, name=str(run.folder)) if names.count(run.name) > 1 else run for run in runs
    ]


def page(runs: Sequence[Run], now: float) -> str:
    """The whole of it.

    Args:
        runs: at least one.
        now: seconds since the epoch, by which is told what runs still.
    """
    from plotly.offline import get_plotlyjs

    data = data_of(runs)
    parts = {
        "title": escape(", ".join(run.name for run in runs) if len(runs) < 4 else "Runs"),
        "made": escape(f"Made {moment(now)} by zeropp report, from files in the runs' folders."),
        "style": _own("page.css"),
        "summary": tables.summary(runs, data, now),
        "memory": tables.memory(runs),
        "plan": tables.plans(runs),
        "configuration": tables.configurations(runs),
        "environment": tables.environments(runs),
        "checkpoints": tables.checkpoints(runs),
        "warnings": tables.warnings(runs),
        "data": json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
        "script": _own("page.js"),
        "plotly": get_plotlyjs(),
    }
    text = _own("page.html")
    pieces = []
    for piece in text.split("{{"):  # what is filled in may hold braces of its own
        name, end, rest = piece.partition("}}")
        pieces.append(parts[name] + rest if end else piece)
    return "".join(pieces)


def _own(name: str) -> str:
    return (files("zeropp.report") / name).read_text(encoding="utf-8")

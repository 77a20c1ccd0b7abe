"""A verb is a dataclass: its fields are options, its docstring is the help, `perform` the work."""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import redirect_stderr
from io import StringIO
from itertools import dropwhile, repeat, takewhile
from typing import Any, Self, TypeVar

import tyro
from rich.console import Console
from rich.table import Table

from zeropp.ir.numbers import check_numbers

_Parsed = TypeVar("_Parsed")


class Verb(ABC):
    """What every verb can do."""

    @classmethod
    def parse(cls, arguments: list[str], prog: str) -> Self:
        """The verb with its options."""
        return parsed(cls, arguments, prog)

    @abstractmethod
    def perform(self) -> int:
        """Do it; returns the exit status."""


def parsed(verb: type[_Parsed], arguments: list[str], prog: str, **options: Any) -> _Parsed:
    """The dataclass that the arguments say; exits where they ask for help.

    Raises:
        ValueError: an option that is unknown, missing or has no such value.
    """
    for argument in arguments:
        if not argument.isascii() and "\ufffd" in os.fsencode(argument).decode(errors="replace"):
            raise ValueError(f"argument {argument!r} is not UTF-8; rename what it names")
    said = StringIO()
    try:
        with redirect_stderr(said):
            made: _Parsed = tyro.cli(verb, args=arguments, prog=prog, **options)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(f"{_first_words(said.getvalue())}; see {prog} --help") from None
    check_numbers(made)
    return made


def _first_words(box: str) -> str:
    """What tyro says in a box below its title, up to the next rule or gap."""
    plain = re.sub(r"\x1b\[[\d;]*m", "", box)
    lines = [line.strip("│ ") for line in plain.splitlines()[1:]]
    told = takewhile(_is_text, dropwhile(lambda line: not _is_text(line), lines))
    return " ".join(told).removeprefix("Error parsing ").rstrip(".")


def _is_text(line: str) -> bool:
    return bool(line.strip("─-╰╯"))


def print_table(
    title: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    styles: Iterable[str] | None = None,
) -> None:
    """Print rows, the first column on the left and the others on the right, each in its style."""
    table = Table(title=title)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=not number)
    for row, style in zip(rows, styles or repeat(""), strict=False):
        table.add_row(*row, style=style)
    Console().print(table)

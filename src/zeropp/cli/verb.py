"""A verb is a dataclass: its fields are options, its docstring is the help, `perform` the work."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Self

import tyro
from rich.console import Console
from rich.table import Table


class Verb(ABC):
    """What every verb can do."""

    @classmethod
    def parse(cls, arguments: list[str], prog: str) -> Self:
        """The verb with its options; exits where they are not understood."""
        return tyro.cli(cls, args=arguments, prog=prog)

    @abstractmethod
    def perform(self) -> int:
        """Do it; returns the exit status."""


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

"""Reading TOML files, with one line that says what is wrong with one."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

_Read = TypeVar("_Read")


def read_toml(what: str, path: Path, made: Callable[[dict[str, Any]], _Read]) -> _Read:
    """What `made` makes of the file's table.

    Args:
        what: the kind of file, with which complaints begin.
        path: the file.
        made: raises KeyError, TypeError or ValueError for a field that it cannot use.

    Raises:
        ValueError: unreadable, or the field that is missing, unknown or out of range.
    """
    table = read_table(what, path)
    try:
        return made(table)
    except KeyError as error:
        raise ValueError(f"{what}: {path}: missing field {error}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what}: {path}: {error}") from error


def read_table(what: str, path: Path) -> dict[str, Any]:
    """The file's table, for callers who say themselves what is wrong with a field.

    Raises:
        ValueError: unreadable.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{what}: cannot read {path}: {error}") from error

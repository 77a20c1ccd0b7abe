"""Reading TOML files, with one line that says what is wrong with one."""

import dataclasses
import inspect
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

_Made = TypeVar("_Made")
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
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{what}: cannot read {path}: {error}") from error
    try:
        return made(table)
    except KeyError as error:
        raise ValueError(f"{what}: {path}: missing field {error}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what}: {path}: {error}") from error


def make(kind: type[_Made], table: Mapping[str, Any]) -> _Made:
    """A dataclass of a TOML table, in which lists are tuples and tables are dataclasses.

    Raises:
        ValueError: the field that is missing, unknown or of another type, or what `kind` refuses.
    """
    return kind(**fields_of(kind, table))


def fields_of(kind: type, table: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """The arguments by which `make` makes a dataclass.

    Args:
        kind: the class.
        table: values by the names of the fields.
        where: the table's name with a dot, with which complaints begin.

    Raises:
        ValueError: the field that is missing, unknown or of another type.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := sorted(table.keys() - fields.keys()):
        raise ValueError(f"unknown field {where}{unknown[0]}; use {', '.join(fields)}")
    for name, field in fields.items():
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and name not in table:
            raise ValueError(f"missing field {where}{name}")
    hints = get_type_hints(kind)
    return {name: _value(hints[name], value, where + name) for name, value in table.items()}


def _value(hint: Any, value: Any, name: str) -> Any:
    nested = [one for one in (hint, *get_args(hint)) if dataclasses.is_dataclass(one)]
    if nested and isinstance(value, dict):
        kind: Any = nested[0]
        return kind(**fields_of(kind, value, f"{name}."))
    from typeguard import CollectionCheckStrategy, TypeCheckError, check_type  # slow to import

    value = _tuples(value)
    try:
        return check_type(value, hint, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
    except TypeCheckError as error:
        raise ValueError(f"{name} must be {_words(hint)}, got {value!r}") from error


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _words(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if dataclasses.is_dataclass(hint):
        return "a table"
    return inspect.formatannotation(hint).removesuffix(" | None")

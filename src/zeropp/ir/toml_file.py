"""TOML files and dataclasses: read strictly, with one line that says what is wrong, and written."""

import dataclasses
import inspect
import tomllib
from collections.abc import Callable, Mapping
from enum import StrEnum
from itertools import repeat
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from cattrs import (
    AttributeValidationNote,
    BaseValidationError,
    ClassValidationError,
    Converter,
    ForbiddenExtraKeysError,
    IterableValidationNote,
)

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
    values = _tuples(table)
    try:
        return _converter.structure(values, kind)
    except BaseValidationError as error:
        raise ValueError(_complaint(error, values)) from error


def table_of(made: Any) -> dict[str, Any]:
    """The table of a dataclass, of which `make` makes an equal one; what is None is left out."""
    table: dict[str, Any] = _without_none(_converter.unstructure(made))
    return table


def whole(name: str, value: Any) -> int:
    """`value` if it is a size; ValueError if not."""
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    return value


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _tuples(part) for name, part in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(part) for name, part in value.items() if part is not None}
    return value


# how a value becomes a field: nothing is converted but a name into a member of an enumeration

_converter = Converter(forbid_extra_keys=True)


def _plain(*kinds: type) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _: Any) -> Any:
        if type(value) not in kinds:
            raise TypeError
        return value

    return structure


for _kind, _accepted in {bool: (bool,), int: (int,), float: (float, int), str: (str,)}.items():
    _converter.register_structure_hook(_kind, _plain(*_accepted))
_converter.register_structure_hook(StrEnum, lambda value, kind: kind(value))


def _is_tuple(hint: Any) -> bool:
    return get_origin(hint) is tuple


@_converter.register_structure_hook_factory(_is_tuple)
def _tuple(hint: Any) -> Callable[[Any, Any], Any]:
    first, *others = get_args(hint)

    def structure(value: Any, _: Any) -> tuple[Any, ...]:
        if not isinstance(value, tuple):
            raise TypeError
        kinds = repeat(first, len(value)) if others == [...] else (first, *others)
        made = []
        for index, (part, kind) in enumerate(zip(value, kinds, strict=True)):
            try:
                made.append(_converter.structure(part, kind))
            except Exception as error:
                error.add_note(IterableValidationNote("in a list", index, kind))
                raise
        return tuple(made)

    return structure


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)


@_converter.register_structure_hook_factory(_is_union)
def _union(hint: Any) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _: Any) -> Any:
        for kind in _given(hint):
            try:
                return _converter.structure(value, kind)
            except BaseValidationError:
                raise  # a table, of which it is known what is wrong
            except Exception:  # whatever a hook raises, as cattrs' own do
                continue
        raise TypeError

    return structure


def _given(hint: Any) -> list[Any]:
    """What a value may be; None is what is not in a file."""
    kinds = get_args(hint) if _is_union(hint) else (hint,)
    return [kind for kind in kinds if kind is not NoneType]


# what is wrong


def _complaint(error: Exception, value: Any) -> str:
    """The first thing that is wrong with a table, after the name of its field."""
    path: list[str] = []
    refused: tuple[Any, Any] | None = None
    while isinstance(error, BaseValidationError):
        if isinstance(error, ClassValidationError):
            refused = None
        error = _first(error)
        for note in reversed(getattr(error, "__notes__", ())):  # the innermost comes first
            if isinstance(note, AttributeValidationNote):
                path.append(note.name)
                value = value.get(note.name)
                refused = note.type, value
            elif isinstance(note, IterableValidationNote):
                value = value[note.index]
    name = ".".join(path)
    if isinstance(error, ForbiddenExtraKeysError):
        fields = ", ".join(field.name for field in dataclasses.fields(error.cl))
        return f"unknown field {'.'.join([*path, min(error.extra_fields)])}; use {fields}"
    if isinstance(error, KeyError):
        return f"missing field {name}"
    if refused is not None:
        return f"{name} must be {_words(refused[0])}, got {refused[1]!r}"
    return str(error) if not path or str(error).startswith(path[0]) else f"{name}.{error}"


def _first(error: BaseValidationError) -> Exception:
    unknown = (one for one in error.exceptions if isinstance(one, ForbiddenExtraKeysError))
    return next(unknown, error.exceptions[0])


def _words(hint: Any) -> str:
    kind, *others = _given(hint)
    if get_origin(kind) is Literal and not others:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return f"one of {', '.join(kind)}"
    if dataclasses.is_dataclass(kind):
        return "a table"
    return inspect.formatannotation(hint).removesuffix(" | None")

"""TOML files and dataclasses: read strictly, with one line that says what is wrong, and written."""

import dataclasses
import inspect
import math
import tomllib
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from cattrs import AttributeValidationNote, BaseValidationError, Converter, ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn

from zeropp.ir.files import read_text

_LARGEST = 1e24  # above all that a field can mean
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
        table = tomllib.loads(read_text(what, path))
    except tomllib.TOMLDecodeError as error:
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
    try:
        return _converter.structure(table, kind)
    except BaseValidationError as error:
        raise ValueError(_complaint(error)) from error


def table_of(made: Any) -> dict[str, Any]:
    """The table of a dataclass, of which `make` makes an equal one; what is None is left out."""
    table: dict[str, Any] = _without_none(_converter.unstructure(made))
    return table


def whole(name: str, value: Any) -> int:
    """`value` if it is a size; ValueError if not."""
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
    return value


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(part) for name, part in value.items() if part is not None}
    return value


def _complaint(error: Exception) -> str:
    """What is wrong first, after the name of its field."""
    path, hint = [], None
    while isinstance(error, BaseValidationError):
        unknown = [e for e in error.exceptions if isinstance(e, ForbiddenExtraKeysError)]
        error = [*unknown, *error.exceptions][0]
        for note in getattr(error, "__notes__", ()):
            if isinstance(note, AttributeValidationNote):
                path.append(note.name)
                hint = note.type
    name = ".".join(path)
    if isinstance(error, ForbiddenExtraKeysError):
        given, known = min(error.extra_fields), [one.name for one in dataclasses.fields(error.cl)]
        usable = ", ".join(get_close_matches(given, known) or known)
        return f"unknown field {'.'.join([*path, given])}; use {usable}"
    if isinstance(error, KeyError):
        return f"missing field {name}"
    if isinstance(error, TypeError):
        return f"{name} must be {_words(hint)}, got {_tuples(error.args[0])!r}"
    return str(error) if not path or str(error).startswith(path[-1]) else f"{name}.{error}"


def _words(hint: Any) -> str:
    if get_origin(hint) is Annotated:
        return _words(get_args(hint)[0])
    kinds = [kind for kind in get_args(hint) if kind is not NoneType] if _is_union(hint) else [hint]
    if len(kinds) == 1 and _is_choice(kinds[0]):
        return f"one of {', '.join(_choices(kinds[0]))}"
    if dataclasses.is_dataclass(kinds[0]):
        return "a table"
    if get_origin(kinds[0]) is Annotated:
        return _words(get_args(kinds[0])[0])
    return inspect.formatannotation(hint).removesuffix(" | None")


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


# A value stays what it is, or a hook raises TypeError of it: an int is a float, but no text a
# number, no bool an int. Only lists become tuples, tables dataclasses, names members of a StrEnum.

_converter = Converter(forbid_extra_keys=True)


def _plain(value: Any, kind: Any) -> Any:
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise TypeError(value)
    if kind in (int, float) and _LARGEST < abs(value) < math.inf:  # no float holds every integer
        raise TypeError(value)
    return value


for _kind in (bool, int, float, str, NoneType):
    _converter.register_structure_hook(_kind, _plain)


def _is_choice(hint: Any) -> bool:
    return get_origin(hint) is Literal or (isinstance(hint, type) and issubclass(hint, StrEnum))


def _choices(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) or tuple(hint)


def _choice(value: Any, hint: Any) -> Any:
    choices = _choices(hint)
    if value not in choices:
        raise TypeError(value)
    return choices[choices.index(value)]


def _is_tuple(hint: Any) -> bool:
    return get_origin(hint) is tuple


def _tuple(value: Any, hint: Any) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise TypeError(value)
    kinds = get_args(hint)
    if kinds[-1] is ...:
        kinds = kinds[:1] * len(value)
    try:
        return tuple(_converter.structure(*each) for each in zip(value, kinds, strict=True))
    except (TypeError, ValueError) as error:
        raise TypeError(value) from error


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, UnionType)


def _union(value: Any, hint: Any) -> Any:
    for kind in get_args(hint):
        try:
            return _converter.structure(value, kind)
        except TypeError:
            continue
    raise TypeError(value)


@_converter.register_structure_hook_factory(dataclasses.is_dataclass)
def _table(kind: Any) -> Callable[[Any, Any], Any]:
    fill = make_dict_structure_fn(kind, _converter)

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, dict):
            raise TypeError(value)
        return fill(value, kind)

    return structure


_converter.register_structure_hook(StrEnum, _choice)
for _holds, _hook in {_is_choice: _choice, _is_tuple: _tuple, _is_union: _union}.items():
    _converter.register_structure_hook_func(_holds, _hook)

"""Lines of a log: each with a time stamp, none longer than 100 columns, or than a terminal."""

import os
import sys
import textwrap
import time

WIDTH = 100
_LEAST = 60  # however narrow a terminal is
_STAMP = "%Y-%m-%dT%H:%M:%S"
TERMINAL = "ZEROPP_TERMINAL"  # a variable: columns of the terminal on which ranks' lines are shown
DATE, _STAMPED = 11, 20  # columns of a stamp until the time, and of all of it


def stamped(text: object) -> str:
    """The text with the local time before each line; what goes on a further line is indented, and
    what would move a terminal's cursor is a dot.
    """
    stamp = time.strftime(_STAMP)
    room = _width() - len(stamp) - 1
    lines = [part for line in str(text).split("\n") for part in _wrapped(_plain(line), room)]
    return "\n".join(f"{stamp} {line}".rstrip() for line in lines)


def tell(text: object) -> None:
    """Print it at once."""
    print(stamped(text), flush=True)


def warn(text: object) -> None:
    """Print it at once, where errors go."""
    print(stamped(f"zeropp: {text}"), file=sys.stderr, flush=True)


def counted(number: int, one: str) -> str:
    """`1 rank`, `2 ranks`, `3 micro-batches`."""
    ending = "" if number == 1 else "es" if one.endswith("ch") else "s"
    return f"{number} {one}{ending}"


def _width() -> int:
    """Of a line: as wide as the terminal, which a rank is told of, and no wider than others'."""
    told = os.environ.get(TERMINAL, "")
    if told.isdecimal():
        return min(WIDTH, max(_LEAST, int(told)))
    try:
        return min(WIDTH, max(_LEAST, os.get_terminal_size(1).columns))
    except OSError:  # it is none
        return WIDTH


def _wrapped(line: str, room: int) -> list[str]:
    return textwrap.wrap(
        line, room, subsequent_indent="  ", break_on_hyphens=False, replace_whitespace=False
    ) or [""]


def _plain(line: str) -> str:
    return "".join(one if one.isprintable() else "·" for one in line.expandtabs(4))


def unstamped(line: str) -> str:
    """A line without its time stamp, where it has one."""
    return line[_STAMPED:] if _is_stamped(line) else line


def dateless(line: str) -> str:
    """A line of which the time stamp says the time alone, where it has one."""
    return line[DATE:] if _is_stamped(line) else line


def _is_stamped(line: str) -> bool:
    return line[DATE - 1 : DATE] == "T" and line[_STAMPED - 1 : _STAMPED] in (" ", "")

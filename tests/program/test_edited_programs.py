"""Programs edited by hand: sound ones run, unsound ones are refused where they are wrong."""

import re
from collections.abc import Callable

import pytest

from zeropp.build import program_of
from zeropp.ir import Program, format_program, parse
from zeropp.plan import Plan
from zeropp.program import InvalidProgramError, require_valid

PLAN = Plan(2, 2, 4, unit_size=2, seam="drain", dp_shard=2, max_resident=1, split=(1, 2, 2, 1))
TEXT = format_program(program_of(PLAN))


def edited(change: Callable[[list[str]], list[str]], rank: int = 0) -> Program:
    """The program with one rank's words changed."""
    lines = TEXT.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith(f"rank {rank}:"))
    head, words = lines[at].split(":")
    lines[at] = f"{head}: {' '.join(change(words.split()))}"
    program = parse("\n".join(lines))
    assert isinstance(program, Program)
    return program


def swapped(first: str, second: str) -> Callable[[list[str]], list[str]]:
    """Two actions in each other's place."""
    other = {first: second, second: first}
    return lambda words: [other.get(word, word) for word in words]


def without(action: str) -> Callable[[list[str]], list[str]]:
    return lambda words: [word for word in words if word != action]


def to_front(action: str) -> Callable[[list[str]], list[str]]:
    return lambda words: [action, *(word for word in words if word != action)]


def to_end(action: str) -> Callable[[list[str]], list[str]]:
    return lambda words: [*(word for word in words if word != action), action]


def twice(action: str) -> Callable[[list[str]], list[str]]:
    return lambda words: [w for word in words for w in ([word] * 2 if word == action else [word])]


UNSOUND: dict[str, Callable[[list[str]], list[str]]] = {
    "a forward runs twice": twice("0F1"),
    "a weight gradient comes before its B": to_front("2W0"),
    "a backward comes before its forward": to_front("2B1"),
    "a forward of a stage that is elsewhere": lambda words: ["1F0", *words],
    "a stage that does not exist": lambda words: [*words, "9W0"],
    "a micro-batch that does not exist": lambda words: [*words, "0W9"],
    "a message leaves before it is made": to_front("0SEND_F1"),
    "an input is received too late": to_end("2RECV_F0"),
    "parameters are gathered too late": to_end("0UNSHARD"),
    "a gradient is never reduced": lambda words: [w for w in words if w != "0REDUCE"],
}


@pytest.mark.parametrize("name", UNSOUND)
def test_an_unsound_edit_is_refused_with_rank_position_and_action(name: str) -> None:
    with pytest.raises(InvalidProgramError) as refused:
        require_valid(edited(UNSOUND[name]))
    assert re.search(r"rank 0, position \d+: \d[A-Z_]+\d*", str(refused.value))


def test_two_weight_gradients_may_change_places() -> None:
    program = require_valid(edited(swapped("1W0", "1W1"), rank=1))
    assert program != parse(TEXT)


def test_the_text_holds_split_and_recompute() -> None:
    program = program_of(Plan(2, 1, 2, split=(3, 4), recompute="full"))
    text = format_program(program)
    assert "\nsplit: 3 4\nrecompute: full\n" in text
    assert parse(text) == program
    with pytest.raises(ValueError, match="split must list 2 positive sizes"):
        parse(text.replace("split: 3 4", "split: 7"))
    with pytest.raises(ValueError, match="recompute must be one of none, selective, full"):
        parse(text.replace("recompute: full", "recompute: all"))

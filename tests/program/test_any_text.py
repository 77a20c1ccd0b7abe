"""Any text is a schedule, a program or a refusal, and whatever is read is proved or found wrong."""

import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zeropp.generate import generate
from zeropp.ir import Order, Program, Schedule, format_program, format_schedule, parse
from zeropp.program import lower, verify, warnings

MADE = [generate(Order(name), 2, 2, 4) for name in ("zeropp", "zb-v", "interleaved-1f1b")]
TEXTS = [
    *map(format_schedule, MADE),
    *(format_program(lower(made, shard)) for made in MADE for shard in (None, "unit", "step")),
]
NUMBERS = ["0", "1", "2", "7", "99", "9999999999", "-1", "10" * 40]
WORDS = [*TEXTS[3].split(), "9SEND_F0", "3SEND_F0", "0SEND_B1", "9UNSHARD", "77F3", "none", ":"]
KEYS = [line.split(":")[0] for line in TEXTS[4].splitlines()[1:]] + ["split", "recompute"]
Change = Callable[[list[str], int], None]


def _remove(words: list[str], at: int) -> None:
    del words[at]


def _repeat(words: list[str], at: int) -> None:
    words.insert(at, words[at])


def _swap(words: list[str], at: int) -> None:
    words[at], words[at - 1] = words[at - 1], words[at]


def _replaced(word: str) -> Change:
    def change(words: list[str], at: int) -> None:
        words[at] = word

    return change


def _numbered(number: str) -> Change:
    def change(words: list[str], at: int) -> None:
        words[at] = number + words[at].lstrip("0123456789")

    return change


CHANGES = st.one_of(
    st.sampled_from([_remove, _repeat, _swap]),
    st.sampled_from(WORDS).map(_replaced),
    st.sampled_from(NUMBERS).map(_numbered),
)


@st.composite
def mutants(draw: st.DrawFn) -> str:
    """A sound text with one to four of its words changed; lines stay lines, mostly."""
    words = draw(st.sampled_from(TEXTS)).replace("\n", " \n ").split(" ")
    for change in draw(st.lists(CHANGES, min_size=1, max_size=4)):
        change(words, draw(st.integers(0, len(words) - 1)))
    return " ".join(words).replace(" \n ", "\n")


def answered(text: str) -> None:
    """As `zeropp verify` does; a ValueError is an answer."""
    start = time.monotonic()
    try:
        subject = parse(text)
    except ValueError:
        return
    found = verify(subject)
    if not found and isinstance(subject, Schedule):
        subject = lower(subject)
        found = verify(subject)
    if not found and isinstance(subject, Program):
        found = warnings(subject)
    assert all(map(str, found))
    assert time.monotonic() - start < 20


@settings(max_examples=400, deadline=None)
@given(mutants())
def test_a_changed_program_is_answered(text: str) -> None:
    answered(text)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(TEXTS), st.data())
def test_a_text_with_other_letters_is_answered(text: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text)))
    answered(text[:at] + data.draw(st.text(max_size=5)) + text[at + data.draw(st.integers(0, 9)) :])


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=200))
def test_no_program_at_all_is_answered(text: str) -> None:
    answered(text)
    answered("zeropp program\n" + text)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", [*NUMBERS, "", "1 1 1 1", "9" * 7, "1 1 1 9999999", "banana"])
def test_a_header_of_any_value_is_answered(key: str, value: str) -> None:
    for text in TEXTS:
        lines = [ln for ln in text.splitlines() if not ln.startswith(f"{key}:")]
        answered("\n".join([lines[0], f"{key}: {value}", *lines[1:]]))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shard", "banana"),
        ("recompute", "all"),
        ("max_resident", "0"),
        ("max_resident", "99999999"),
        ("split", "1 1 1 99999999"),
        ("pp_size", "99999999"),
        ("num_chunks", "9999999"),
        ("units", "9999999"),
    ],
)
def test_what_no_header_can_mean_is_refused_by_its_name(field: str, value: str) -> None:
    lines = [ln for ln in TEXTS[4].splitlines() if not ln.startswith(f"{field}:")]
    with pytest.raises(ValueError, match=field):
        parse("\n".join([lines[0], f"{field}: {value}", *lines[1:]]))


def test_many_wrong_actions_are_told_soon() -> None:
    text = format_schedule(generate(Order("1f1b"), 2, 1, 4000))
    answered(text.replace("units: 4000", "units: 39000"))

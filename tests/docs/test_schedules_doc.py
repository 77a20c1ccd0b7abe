"""The page about schedules: its formulas equal what is simulated, and its advice is given."""

import json
import math
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from sympy import Float, Max, Min, floor
from sympy.parsing.sympy_parser import implicit_multiplication, parse_expr, standard_transformations

from zeropp.cli.main import main
from zeropp.generate import GENERATORS
from zeropp.ir import Schedule

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "schedules.md").read_text("utf-8")
Times = tuple[float, float, float]
EQUAL, SHORT_W, UNEQUAL = (1, 1, 1), (1, 1, 0.7), (1, 1.3, 0.9)
HOLDS = {"equal": (EQUAL,), "short W": (EQUAL, SHORT_W), "any": (EQUAL, SHORT_W, UNEQUAL)}
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in re.findall(r"^\|[^|]*\|[^|]*\| (?:equal|short W|any) \|.*\|$", PAGE, re.M)
]
ADVICE = re.findall(r"^    zeropp (simulate .*  # .*)$", PAGE, re.MULTILINE)


def value(formula: str, schedule: Schedule, times: Times = EQUAL) -> float:
    """What a formula of the page gives at the schedule's size."""
    numbers = {
        "P": schedule.placement.pp_size,
        "V": schedule.placement.num_chunks,
        "B": schedule.num_microbatches,
        "U": max(schedule.units),
        **dict(zip(("T_F", "T_B", "T_W"), times, strict=True)),
    }
    known = {name: Float(number) for name, number in numbers.items()}
    (text,) = re.findall(r"`(.*)`", formula)
    how = (*standard_transformations, implicit_multiplication)
    functions = {"floor": floor, "min": Min, "max": Max}
    return float(parse_expr(text, local_dict=known | functions, transformations=how))


def claimed(simulated: ModuleType, row: list[str]) -> Iterator[tuple[float, float]]:
    """What a row says, and what is simulated."""
    label, bubble, holds, _, peak, gathers = row
    for size in simulated.SIZES:
        for times in HOLDS[holds]:
            schedule = simulated.made(label, size, times)
            found = simulated.idle(schedule, times)[1 if "*span*" in bubble else 0]
            yield value(bubble, schedule, times), found
        equal = simulated.made(label, size)
        yield value(peak, equal), simulated.peak(equal)
    if gathers != "-":
        schedule = simulated.made(label, (8, 4, 32))
        wanted = value(gathers, schedule)
        yield from ((wanted, count) for count in simulated.gathers(schedule, 1))


def test_every_schedule_has_its_rows_and_its_section(simulated: ModuleType) -> None:
    assert [row[0] for row in ROWS] == list(simulated.LABELS)
    assert {label.split(", ")[0] for label in simulated.LABELS} == set(GENERATORS)
    sections = re.findall(r"^### (.*)$", PAGE, re.MULTILINE)
    assert sorted(sections) == sorted({re.sub(", U=.*", "", row[0]) for row in ROWS})
    shown = re.findall(r"\]\(schedules/([\w-]+)\.svg\)", PAGE)
    assert [name.replace("zeropp-", "zeropp, ") for name in shown] == sections


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_formulas_are_what_is_simulated(simulated: ModuleType, row: list[str]) -> None:
    for said, found in claimed(simulated, row):
        assert math.isclose(said, found, rel_tol=1e-4, abs_tol=1e-6), row[0]


def test_false_formulas_would_be_noticed(simulated: ModuleType) -> None:
    for column, formula in ((1, "`P`"), (4, "`2P`"), (5, "`B`")):
        row = list(ROWS[[row[0] for row in ROWS].index("1f1b")])
        row[column] = formula
        assert any(not math.isclose(said, found) for said, found in claimed(simulated, row))


@pytest.mark.parametrize("line", ADVICE)
def test_the_advice_is_what_simulate_recommends(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command, _, choice = line.partition("  # ")
    assert main([*shlex.split(command), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recommended"] == choice


def test_there_is_advice() -> None:
    assert len(ADVICE) == len(re.findall(r"^    zeropp simulate ", PAGE, re.MULTILINE)) == 12

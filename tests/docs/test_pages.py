"""The marked blocks of the pages are what the script fills in; it names what differs."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(DOCS, tmp_path / "docs")
    return tmp_path / "docs"


@pytest.fixture
def results(tmp_path: Path, measured: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for new results, and a copy of the published ones to change."""
    published = tmp_path / "results.json"
    shutil.copy(measured.RESULTS, published)
    monkeypatch.setattr(measured, "RESULTS", published)
    (tmp_path / "bench").mkdir()
    return tmp_path / "bench"


def figure(name: str, value: float, target: float, **more: Any) -> dict[str, Any]:
    known = {"unit": "times", "at_least": False, "holds": True}
    return {"name": name, "value": value, "target": target} | known | more


def printed(claim: str, rows: list[dict[str, Any]], *figures: dict[str, Any]) -> str:
    return json.dumps({"claim": claim, "rows": rows, "figures": figures})


def test_every_block_and_picture_is_as_the_script_makes_it() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "docs.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_edited_block_is_named(
    pages: ModuleType,
    copy: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(pages, "PAGES", ("performance.md",))
    assert pages.fill(copy, "--check") == 0
    page = copy / "performance.md"
    edited = re.sub(r"1F1B \*\*1\.\d+\*\*$", "1F1B **1.91**", page.read_text("utf-8"), flags=re.M)
    page.write_text(edited, "utf-8")
    assert pages.fill(copy, "--check", "--diff") != 0
    assert "performance.md" in (shown := capsys.readouterr().out)
    assert re.search(r"^-.*1F1B \*\*1\.91\*\*", shown, re.M)


@pytest.mark.parametrize("change", ["edit", "remove", "add"])
def test_another_picture_is_named(
    pages: ModuleType, copy: Path, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = copy / "schedules" / ("old.svg" if change == "add" else "1f1b.svg")
    if change == "edit":
        picture.write_text(picture.read_text("utf-8").replace(">rank 3<", ">rank 4<"), "utf-8")
    elif change == "remove":
        picture.unlink()
    else:
        picture.touch()
    assert pages.different(copy)
    assert capsys.readouterr().err == f"{picture} is not as drawn; run scripts/docs.py\n"


def test_a_picture_of_another_matplotlib_counts_by_what_it_shows(
    pages: ModuleType, copy: Path
) -> None:
    picture = copy / "schedules" / "1f1b.svg"
    there = picture.read_text("utf-8")
    other = re.sub(r'x="(\d+)\.\d+"', r'x="\1.5"', there.replace("Matplotlib v", "Matplotlib v1"))
    assert other != there
    picture.write_text(other, "utf-8")
    assert not pages.different(copy)


def test_new_results_take_the_place_of_the_old(
    measured: ModuleType, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = measured.results()
    missed = figure("speed-up", 1.29996, 1.3, at_least=True, holds=False)
    made = printed("A step", [], figure("one", 1.01, 1.03), missed, figure("two", 1.02, 1.03))
    (results / "overhead.json").write_text(made)
    measured.take(results, results)
    assert measured.results() | {"overhead": before["overhead"]} == before
    measured.figures("overhead")
    assert capsys.readouterr().out.splitlines() == [
        "- at most 1.03 times: one **1.01**; two **1.02**",
        "- at least 1.3 times, **missed**: speed-up **1.29996**",
    ]
    measured.summary()
    assert "1 of [overhead](#and-the-others)" in capsys.readouterr().out


def test_pictures_are_drawn_of_rows(measured: ModuleType, results: Path) -> None:
    row = {"P": 4, "B": 8, "costs": [1, 1, 1], "V": 2, "most_possible": 1.1}
    rows = [row | {"schedule": schedule} for schedule in ("zeropp carry", "torch 1F1B")]
    (results / "peers.json").write_text(printed("Faster", rows))
    measured.take(results, results)
    assert "torch 1F1B, V=2" in (results / "peers.svg").read_text("utf-8")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("nothing.json", printed("Nothing", []), "there is no benchmarks/nothing.py"),
        ("soak.json", "Traceback", "soak.json: not what a benchmark prints"),
        ("soak.json", '{"rows": []}', "soak.json: not what a benchmark prints"),
        ("peers.json", printed("Faster", [{"P": 4}]), "peers.json: not what a benchmark prints"),
    ],
)
def test_bad_results_are_refused(
    measured: ModuleType, results: Path, name: str, text: str, message: str
) -> None:
    before = measured.RESULTS.read_text()
    (results / name).write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        measured.take(results, results)
    assert measured.RESULTS.read_text() == before

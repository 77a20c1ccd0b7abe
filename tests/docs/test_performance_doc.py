"""The page about performance is made of results, shows what misses, and names what exists."""

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "performance.md"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import performance_doc

    return performance_doc


def result(rows: list[dict[str, Any]], *figures: dict[str, Any]) -> str:
    return json.dumps({"claim": "Something holds", "rows": rows, "figures": figures})


def figure(name: str, value: float, target: float, holds: bool, **more: Any) -> dict[str, Any]:
    return {"name": name, "value": value, "target": target, "holds": holds, **more}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    row = {"P": 4, "schedule": "1f1b", "simulated_s": 1.0, "measured_s": 1.01}
    overhead = result([row], figure("step", 1.01, 1.03, True, unit="times", at_least=False))
    (folder / "overhead.json").write_text(overhead)
    rows = [{"pairs": 3}, *({"seed": seed, "more|less": None} for seed in range(80))]
    split = result(
        rows,
        figure("time", 1.0, 1.03, True),
        figure("speed-up", 1.29996, 1.3, False, at_least=True),
    )
    (folder / "split.json").write_text(split)
    return folder


def written(script: ModuleType, results: Path) -> str:
    docs = results.parent / "docs"
    script.write(results, docs)
    return (docs / "performance.md").read_text("utf-8")


def test_the_page_shows_what_holds_and_what_does_not(script: ModuleType, results: Path) -> None:
    page = written(script, results)
    overhead = "step | 1.01 times | at most 1.03 | yes | 1 of 1 hold"
    assert f"| [overhead](#overhead) | Something holds | {overhead} |" in page
    missed = "speed-up | 1.29996 | at least 1.3 |"
    assert f"| [split](#split) | Something holds | {missed} **no** | 1 of 2 hold |" in page
    _, _, after = page.partition("## What does not hold")
    assert after.partition("\n## ")[0].count("[split](#split)") == 1
    assert "The first 60 of 81 rows" in page
    assert "| seed | more\\|less |" in page


def test_pictures_are_drawn_and_old_ones_go(script: ModuleType, results: Path) -> None:
    pictures = results.parent / "docs" / "performance"
    pictures.mkdir(parents=True)
    (pictures / "old.svg").touch()
    assert "![overhead](performance/overhead.svg)" in written(script, results)
    assert [path.name for path in pictures.iterdir()] == ["overhead.svg"]


def test_what_is_missing_is_named(script: ModuleType, results: Path) -> None:
    absent = re.search(r"^Without a result here: (.*)\.$", written(script, results), re.MULTILINE)
    assert absent is not None
    assert "`python benchmarks/planner.py`" in absent[1]
    assert "overhead.py" not in absent[1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("nothing.json", result([]), "there is no benchmarks/nothing.py"),
        ("soak.json", "Traceback", "soak.json: not what a benchmark prints"),
        ("soak.json", '{"rows": []}', "soak.json: not what a benchmark prints"),
        ("overhead.json", result([{"P": 4}]), "overhead: no row has the keys of its plot"),
    ],
)
def test_bad_results_are_refused(
    script: ModuleType, results: Path, name: str, text: str, message: str
) -> None:
    (results / name).write_text(text)
    with pytest.raises(script.RefusedError, match=re.escape(message)):
        written(script, results)


def test_no_result_at_all_is_refused(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(script.RefusedError, match=r"no NAME\.json"):
        script.write(tmp_path, tmp_path)


def test_every_benchmark_can_be_named(script: ModuleType) -> None:
    names = script.scripts()
    assert {"schedules", "paper", "planner"} <= set(names)
    assert {"claim", "paper_sides"}.isdisjoint(names)
    assert all(script._run_line(name).startswith("`python benchmarks/") for name in names)
    listed = re.search(r"^BENCHMARKS = (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert listed is not None
    assert sorted(listed[1].split()) == names


def test_what_the_page_names_is_there() -> None:
    page = PAGE.read_text("utf-8")
    named = set(re.findall(r"benchmarks/(\w+\.py)", page))
    assert named
    assert all((ROOT / "benchmarks" / name).is_file() for name in named)
    assert all((PAGE.parent / name).is_file() for name in re.findall(r"\]\((.*?\.svg)\)", page))


def test_the_paper_has_its_tables_and_picture(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import paper
    from performance_paper import paper_picture, paper_tables

    cases = [paper.Case("1.5b", 4, 8, 2, B, "8 x ib-200", paper.INSIDE) for B in (4, 8, 16)]
    compared = [paper.compare(case) for case in cases]
    rows = [paper.row(each) for each in compared]
    tables = paper_tables(rows)
    assert "| inside | 8 x ib-200 | small batch | 2 |" in tables
    paper_picture(rows, tmp_path / "paper.svg")
    found = list(paper.figures(compared))
    over = next(f for f in found if f.name.startswith("ZeroPP, small batch, shards inside"))
    assert over.value == max(
        each.peer(paper.BREADTH_FIRST).step_s / each.fastest(paper.OURS["ZeroPP"]).step_s
        for each in compared[:2]
    )

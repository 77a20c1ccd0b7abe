"""What a page about runs says is what the runs' files say, in whatever state they are."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.runs import make_run
from zeropp.cli.main import main
from zeropp.plan import Plan
from zeropp.planner import SavedPlan, read_plan, write_plan
from zeropp.report.folder import Tail, add_start, starts_of, whole_lines
from zeropp.report.page import page
from zeropp.report.run import read_run
from zeropp.report.thin import kept


def written(*folders: Path, now: float = 2e9) -> tuple[str, dict[str, Any]]:
    """A page, and the numbers in it."""
    text = page([read_run(folder) for folder in folders], now)
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    assert found is not None
    return text, json.loads(found[1])


def body(text: str) -> str:
    """All but scripts and styles."""
    return re.sub(r"<(script|style).*?</\1>", "", text, flags=re.S)


def test_the_numbers_are_those_of_the_files(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    text, data = written(run)
    (drawn,) = data["runs"]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    loss = drawn["curves"]["loss"]
    known = {one["step"]: one["loss"] for one in lines if one["loss"] is not None}
    assert dict(zip(loss["step"], loss["value"], strict=True)) == known
    assert drawn["curves"]["val_loss"]["step"] == [10, 20, 30]
    assert drawn["curves"]["lr"]["tokens"] == [200.0 * step for step in range(1, 31)]
    assert drawn["curves"]["lr"]["hours"][-1] == pytest.approx((2 + 29 * 3) / 3600, abs=1e-6)
    assert "mfu" not in drawn["curves"]
    assert drawn["categories"][0] == {
        "name": "parameters",
        "colour": "#0072B2",
        "bars": ["rank 0, measured", "rank 1, measured"],
        "gib": [2**-10, 2**-10],
    }
    (predicted, measured) = drawn["timelines"]
    assert (predicted["name"], measured["name"]) == ("predicted", "measured")
    assert measured["makespan"] == 8.0
    assert measured["bubble"] == 0.5
    assert measured["parts"][0]["name"] == "F forward"
    assert measured["parts"][0]["start"] == [0.0, 2.0]
    plain = body(text)
    for words in ("30 of 30", "finished", "4.0333", "a layout of words", "step-30", "20.0%"):
        assert words in plain
    assert "step 7: &lt;it&gt; is skipped" in plain


def test_what_the_planner_said_is_kept_and_told(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    said = {"family": "ZeroPP", "why": ["It pays: <10 %."]}
    predicted = {"step_s": 1.5, "peak_bytes": 3.0 * 2**20}
    write_plan(SavedPlan(Plan(2, 1, 4), 1, predicted, said), run / "plan.toml")
    assert read_plan(run / "plan.toml").said == said
    plain = body(written(run)[0])
    assert "ZeroPP, as the planner says:" in plain
    assert "It pays: &lt;10 %." in plain
    figures = re.findall(r"<td[^>]*>([\d.,]+)</td><td[^>]*>([\d.,]+)</td></tr>", plain)
    assert ("1,500.0", "2,000.0") in figures  # ms of a step
    assert ("3.0", "3.0") in figures  # MiB of the fullest rank


def test_nothing_is_asked_of_a_network(tmp_path: Path) -> None:
    text, _ = written(make_run(tmp_path / "a"))
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=[\"']?(https?:)?//", text)
    assert "{{" not in body(text)


def test_what_differs_between_runs_is_told(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, lr=lr) for name, lr in (("a", 0.1), ("b", 0.2))]
    text, data = written(*runs)
    differs = body(text).partition("What differs")[2].partition("All of it")[0]
    assert re.findall(r'<th scope="row"[^>]*>([\w.]+)</th>', differs) == ["run.name", "optim.lr"]
    assert len({run["colour"] for run in data["runs"]}) == 2


def cut(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 31, "lo')


def no_timeline(run: Path) -> None:
    (run / "timeline.json").unlink()


def half_a_timeline(run: Path) -> None:
    text = (run / "timeline.json").read_text()
    (run / "timeline.json").write_text(text[: len(text) // 2])


def only_config(run: Path) -> None:
    for path in [*run.iterdir()]:
        if path.name != "config.toml":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def no_config(run: Path) -> None:
    (run / "config.toml").unlink()


def bad_config(run: Path) -> None:
    (run / "config.toml").write_text("[run")


def of_before(run: Path) -> None:
    """Written by a trainer that kept less."""
    for name in ("environment.json", "memory.json", "warnings.txt"):
        (run / name).unlink()


def resumed(run: Path) -> None:
    add_start(run, {"started": 1.1e9, "step": 30, "ranks": 4, "layout": "another layout"})
    with (run / "metrics.jsonl").open("a") as file:
        more = {"step": 31, "loss": 3.0, "step_s": 2.0, "tokens_per_s": 50.0, "time": 1.2e9}
        file.write(json.dumps(more) + "\n")


@pytest.mark.parametrize(
    "change",
    [*(cut, no_timeline, half_a_timeline, only_config, no_config, bad_config, of_before), resumed],
)
def test_every_state_gives_a_page(tmp_path: Path, change: Callable[[Path], None]) -> None:
    run = make_run(tmp_path / "a")
    change(run)
    assert main(["report", str(run), "-o", str(tmp_path / "r.html")]) == 0
    text, data = written(run)
    if change is resumed:
        assert "from step 31: another layout, 4 ranks" in body(text)
        hours = data["runs"][0]["curves"]["loss"]["hours"]
        assert hours[-1] - hours[-2] == pytest.approx(2 / 3600, abs=2e-6)  # and no pause
    if change is only_config:
        assert "no step yet" in body(text)


@pytest.mark.parametrize(
    ("wanted", "now", "state"),
    [
        (30, 2e9, "finished"),
        (60, 1e9 + 95, "running, last step 5 s before"),
        (60, 2e9, "ended after step 30"),
    ],
)
def test_how_far_a_run_is(tmp_path: Path, wanted: int, now: float, state: str) -> None:
    text, _ = written(make_run(tmp_path / "a", wanted=wanted), now=now)
    assert state in body(text)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "run: cannot read nowhere: it is no folder; name that of a run"),
        (["empty"], "it holds no run, as neither config.toml nor metrics.jsonl is there"),
        (["a/config.toml"], "it is no folder"),
        (["a", "-o", "none/r.html"], "output: cannot write none/r.html: folder 'none' does not"),
        (["a", "-o", "empty"], "output: cannot write empty: it is a folder; name a file"),
        ([], "runs must name a run's folder"),
    ],
)
def test_what_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    (tmp_path / "report.html").write_text("before")
    assert main(["report", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert (tmp_path / "report.html").read_text() == "before"


def test_no_spike_of_a_long_curve_is_lost() -> None:
    values = [float(at % 7) for at in range(100_000)]
    values[12_345], values[54_321] = 99.0, -99.0
    places = kept(values, 1_000)
    assert len(places) <= 1_000
    assert {0, 12_345, 54_321, 99_999} <= {*places}
    assert places == sorted(places)
    assert kept(values[:1_000], 1_000) == [*range(1_000)]


def test_a_file_that_grows_is_followed_by_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert tail.read() == ""
    path.write_text('{"step": 1}\n{"st')
    assert tail.read() == '{"step": 1}\n'
    with path.open("a") as file:
        file.write('ep": 2}\n')
    assert [*whole_lines(tail.read())] == [{"step": 2}]
    (tmp_path / "new").write_text('{"step": 1}\n')
    (tmp_path / "new").replace(path)
    assert tail.read() == '{"step": 1}\n'


def test_starts_are_added_to(tmp_path: Path) -> None:
    for step in (0, 5):
        add_start(tmp_path, {"step": step})
    assert [start["step"] for start in starts_of(tmp_path)] == [0, 5]
    (tmp_path / "environment.json").write_text("[{")
    assert starts_of(tmp_path) == []

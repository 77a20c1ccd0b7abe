"""The view of a run on a terminal, and the lines of one that is piped."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.processes import alive, ranks_of
from support.screen import Screen
from zeropp.report.folder import add_start
from zeropp.report.live import State, duration, sparkline

TINY = [
    *("--model.layers", "2", "--data.seq-len", "16", "--data.micro-batch-size", "1"),
    *("--parallel.num-chunks", "1", "--parallel.num-microbatches", "2"),
    *("--run.sample", "0", "--run.eval-every", "40"),
]
COMMAND = [sys.executable, "-m", "zeropp.cli.main", "train", *TINY]
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d( |$)")


@pytest.fixture(params=[80, pytest.param(140, marks=pytest.mark.nightly)])
def screen(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Screen]:
    made = Screen([*COMMAND, "--run.steps", "100000"], tmp_path, request.param)
    try:
        yield made
    finally:
        made.close()


def row(lines: list[str], name: str) -> str:
    """The last of a name in the view."""
    return next((line for line in reversed(lines) if line.startswith(f"{name} ")), "")


def is_clean(screen: Screen) -> bool:
    """Whether the terminal is as it was, and the cursor at the start of a line."""
    hidden = screen.written.count("\x1b[?25l") > screen.written.count("\x1b[?25h")
    view = any(re.match(r"(run|layout|loss|now|step) {2,}", line) for line in screen.lines())
    return screen.settings() == screen.before and not hidden and not view


def test_a_terminal_shows_a_run_and_is_clean_after_ctrl_c(screen: Screen, tmp_path: Path) -> None:
    shown: dict[str, str] = {}

    def complete() -> bool:
        shown.update({n: row(screen.lines(), n) for n in ("layout", "step", "loss", "speed")})
        shown["memory"] = row(screen.lines(), "memory")
        drawn = "predicted" in shown["speed"] and "grad norm" in shown["loss"]
        return drawn and "fullest rank" in shown["memory"]

    screen.read_until(complete)
    assert "2 pipeline ranks x 1 stage, 2 micro-batches of 1, zeropp" in shown["layout"]
    assert re.search(r"\d+ of 100000 .* left", shown["step"])
    assert re.search(r"\d\.\d{4} .*[▁▂▃▄▅▆▇█]+.*validation \d.* lr \d.* grad norm", shown["loss"])
    assert re.search(
        r"[\d,]+ tokens/s, [\d,]+ since the start  bubble .* predicted", shown["speed"]
    )
    assert "GiB on the fullest rank" in shown["memory"]
    os.killpg(screen.process.pid, signal.SIGINT)  # as a terminal does
    screen.read_until(lambda: False)
    assert screen.process.wait(30) == 130
    lines = [line for line in screen.lines() if line]
    assert lines[-1] == "zeropp: stopped"
    assert any("stopped by SIGINT after step" in line for line in lines)
    assert is_clean(screen)


@pytest.mark.parametrize("screen", [80], indirect=True)
def test_ctrl_c_before_the_first_step_ends_it(screen: Screen, tmp_path: Path) -> None:
    screen.read_until(lambda: "starting 2 ranks" in screen.written)
    os.killpg(screen.process.pid, signal.SIGINT)
    screen.read_until(lambda: False, 60)
    assert screen.process.wait(30) == 130
    assert [line for line in screen.lines() if line][-1] == "zeropp: stopped"
    assert not (tmp_path / "runs" / "demo" / "metrics.jsonl").exists()
    assert is_clean(screen)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("screen", [80], indirect=True)
def test_a_rank_that_is_killed_leaves_a_clean_terminal(screen: Screen, which: int) -> None:
    screen.read_until(lambda: bool(row(screen.lines(), "speed")))
    ranks = ranks_of(screen.process.pid)
    os.kill(ranks[which], signal.SIGKILL)
    screen.read_until(lambda: False)
    assert screen.process.wait(30) == 1
    (*_, last) = (line for line in screen.lines() if line)
    assert re.fullmatch(r"zeropp: rank \d was ended by SIGKILL", last)
    assert is_clean(screen)
    assert not any(alive(rank) for rank in ranks)


def test_an_error_on_a_rank_is_shown_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = (
        "import torch, sys\n"
        "def step(*_):\n    sys.stderr.write('a word\\n')\n    raise OSError('a fault')\n"
        "torch.optim.AdamW.step = step\n"
    )
    (tmp_path / "sitecustomize.py").write_text(fault)
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    monkeypatch.setenv("PYTHONPATH", path)
    screen = Screen([*COMMAND, "--run.steps", "4"], tmp_path)
    try:
        screen.read_until(lambda: False)
        assert screen.process.wait(60) == 1
        lines = [line for line in screen.lines() if line]
        assert re.fullmatch(r"zeropp: rank [01] failed: OSError: a fault", lines[-1])
        assert "a word" in lines
        assert is_clean(screen)
    finally:
        screen.close()


def test_piped_lines_have_a_time_and_fit(tmp_path: Path) -> None:
    long = tmp_path / ("a-long-name-" * 8)
    command = [*COMMAND, "--run.steps", "20", "--run.folder", str(long)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert all(STAMP.match(line) for line in lines)
    assert max(map(len, lines)) <= 100
    told = " ".join(line[20:].strip() for line in lines)
    for phase in (
        "reading the text",
        "starting 2 ranks",
        "building 2 pipeline ranks",
        "first step",
    ):
        assert phase in told
    assert "step    20/20  loss" in told
    assert "bubble ratio" in told
    assert "\x1b" not in done.stdout


def test_a_curve_is_of_means() -> None:
    assert sparkline([4.0, 4.0, 2.0, 2.0, 0.0, 0.0], 3) == "█▅▁"
    assert sparkline([1.0], 5) == "▁"
    assert sparkline([], 5) == ""


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (61, "1 min 1 s"), (3 * 3600 + 60, "3 h 1 min")]
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_a_view_of_nothing_yet_says_what_is_done(tmp_path: Path) -> None:
    state = State(tmp_path, 5)
    state.hear(["2026-01-01T10:00:00 building", "2026-01-01T10:00:00   of parts", ""])
    assert [name for name, _ in state._rows(70)] == ["run", "now"]
    assert dict(state._rows(70))["now"].startswith("building")


def test_a_view_that_fails_leaves_the_words(tmp_path: Path) -> None:
    script = (
        "from zeropp.launch.relay import relayed\n"
        "def fail(lines):\n    if lines:\n        raise KeyError('a fault')\n"
        "with relayed(fail):\n    print('one', flush=True)\n    print('two', flush=True)\n"
        "print('three')\n"
    )
    screen = Screen([sys.executable, "-c", script], tmp_path)
    try:
        screen.read_until(lambda: False)
        lines = screen.lines()
        assert [line for line in lines if line in ("one", "two", "three")] == [
            "one",
            "two",
            "three",
        ]
        assert "KeyError: 'a fault'" in lines
    finally:
        screen.close()


def test_a_view_tells_of_memory_mfu_checkpoints_and_warnings(tmp_path: Path) -> None:
    (tmp_path / "warnings.txt").write_text("2026-01-01T10:00:00 of an earlier start\n")
    state = State(tmp_path, 50)
    (tmp_path / "checkpoints" / "step-8").mkdir(parents=True)
    add_start(
        tmp_path,
        {"started": time.time() + 1, "layout": "a layout", "device_gib": 80.0, "device": "GPU"},
    )
    with (tmp_path / "warnings.txt").open("a") as file:
        file.write("2026-01-01T11:00:00 step 9: a leap\n")
    known = {"loss": 2.0, "lr": 1e-3, "grad_norm": None, "step_s": 2.0, "tokens_per_s": 50.0}
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for step in (9, 10):
            times = {"step": step, "time": time.time() + 4 * step}
            file.write(json.dumps(known | times | {"memory_gib": 40.0, "mfu": 0.41}) + "\n")
    state.look()
    rows = {name: str(what) for name, what in state._rows(90)}
    assert rows["layout"] == "a layout"
    assert rows["speed"].startswith("25 tokens/s, 33 since the start  MFU 41.0%")
    assert rows["memory"] == "40.00 GiB on the fullest rank, 50% of 80 GiB (GPU)"
    assert rows["loss"].startswith("2.0000")
    assert rows["loss"].endswith("grad norm not finite")
    assert rows["saved"].startswith("step-8, ")
    assert rows["now"] == "step 11"
    assert rows["warned"] == "11:00:00 step 9: a leap"
    assert state._left(10) == "2 min 40 s left"

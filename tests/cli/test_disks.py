"""Runs on a disk that is really full, or turns read-only while they go on."""

import json
import shutil
import signal
import time
from collections.abc import Iterator
from itertools import dropwhile, takewhile
from pathlib import Path

import pytest
from test_survival import ENDLESS, RUN, TINY, finished, made, start, wait_for

from support.disks import Disk, DiskError, mounted, refusal
from support.lines import joined
from support.processes import alive, ranks_of
from zeropp.checkpoint.files import steps_in
from zeropp.cli.main import main

FULL, READ_ONLY = "No space left on device", "Read-only file system"
KIB = 2**10


@pytest.fixture(params=[False])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    if (why := refusal()) is not None:
        pytest.skip(why)
    try:
        mount = mounted(tmp_path, 64, in_memory=request.param)
        made_here = mount.__enter__()
    except DiskError as error:
        pytest.skip(f"no disk of our own here: {error}")
    yield made_here
    mount.__exit__(None, None, None)


def whole_steps(cwd: Path) -> list[int]:
    """As `made`, of a file that may end in half a line while the run goes on."""
    text = (cwd / RUN / "metrics.jsonl").read_text()
    return [json.loads(line)["step"] for line in text.splitlines(keepends=True) if line[-1] == "\n"]


@pytest.mark.parametrize(("what", "says"), [("fill", FULL), ("fail", READ_ONLY)])
def test_a_disk_that_fails_in_mid_run_costs_what_is_not_saved(
    disk: Disk, what: str, says: str
) -> None:
    cwd = disk.folder
    places = cwd / RUN / "checkpoints"
    run = start(cwd, *ENDLESS, "--run.save-every", "40", "--run.eval-every", "30")
    wait_for(lambda: steps_in(places))
    ranks = ranks_of(run.pid)
    getattr(disk, what)()
    assert run.stdout is not None
    with run.stdout as words:
        said = [*takewhile(lambda line: "metrics.jsonl:" not in line, words)]  # it goes on
        run.send_signal(signal.SIGTERM)
        said += [*words]
    assert run.wait(60) == 1
    *_, last = lines = [*dropwhile(lambda line: says not in line, joined("".join(said)))]
    assert "Traceback" not in "".join(said)
    assert len(lines) <= 20
    assert "cannot be written: rank 0: [Errno " in last
    assert says in last
    good = max(steps_in(places))
    assert last.endswith(f"; the last good one: {places.relative_to(cwd)}/step-{good}")
    assert not any(alive(rank) for rank in ranks)
    disk.empty() if what == "fill" else disk.mend()
    again = ["--run.resume", "auto", "--run.steps", str(good + 3)]
    status, output = finished(cwd, *again, "--optim.schedule-steps", "200")
    assert status == 0, output
    assert f"going on from {RUN}/checkpoints/step-{good}" in output
    assert whole_steps(cwd) == list(range(1, good + 4))
    assert not [*places.glob(".*")]


def test_metrics_go_on_when_there_is_room_again(disk: Disk) -> None:
    run = start(disk.folder, *ENDLESS, "--run.save-every", "0")
    try:
        wait_for(lambda: made(disk.folder))
        disk.fill()
        assert run.stdout is not None
        assert next(line for line in run.stdout if "metrics are lost" in line)
        disk.empty()
        then = len(whole_steps(disk.folder))
        wait_for(lambda: len(whole_steps(disk.folder)) > then + 1)
    finally:
        run.kill()
        run.communicate()
    steps = whole_steps(disk.folder)  # of which none is half
    assert steps == sorted(set(steps))


def test_what_a_full_disk_does_to_tensorboard_is_one_line(disk: Disk) -> None:
    run = start(disk.folder, *ENDLESS, "--run.tensorboard", "--run.save-every", "3")
    wait_for(lambda: made(disk.folder))
    disk.fill()
    assert run.stdout is not None
    with run.stdout as words:
        text = "".join(takewhile(lambda line: "run.tensorboard:" not in line, words))
        then = time.monotonic() + 3  # in which more checkpoints fail
        wait_for(lambda: time.monotonic() > then)
        run.send_signal(signal.SIGTERM)
        text += "".join(words)
    assert run.wait(60) == 1
    assert "Traceback" not in text
    assert "Exception in thread" not in text
    assert text.count("training goes on") == 1
    assert text.count("cannot be written") <= 2  # and the last, with which the run ends


@pytest.mark.parametrize("disk", [True], indirect=True)
def test_a_run_is_not_begun_on_a_full_disk(
    disk: Disk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(disk.folder)
    for left in (0, 4, 8, 64):  # for no lock, no second one, no tokens
        refused(disk, left, capsys)


def refused(disk: Disk, left: int, capsys: pytest.CaptureFixture[str], *options: str) -> None:
    """In one line; nothing is left of it."""
    before = sorted(disk.folder.rglob("*"))
    disk.fill(left * KIB)
    capsys.readouterr()
    assert main(["train", *TINY, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("zeropp: run.")
    assert FULL in line
    disk.empty()
    assert sorted(disk.folder.rglob("*")) == before


@pytest.mark.nightly
def test_a_disk_that_is_full_once_ranks_start(disk: Disk) -> None:
    run = start(disk.folder, "--run.steps", "3")
    wait_for((disk.folder / RUN / "config.toml").exists)
    disk.fill()
    output, _ = run.communicate(timeout=120)
    assert run.returncode == 2, output
    last = joined(output)[-1]
    assert last.startswith("zeropp: run.folder: cannot ")
    assert last.endswith(f": {FULL}; choose another path")
    disk.empty()
    shutil.rmtree(disk.folder / RUN)
    status, output = finished(disk.folder, "--run.steps", "3")
    assert status == 0, output

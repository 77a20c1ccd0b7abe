"""What a run's view, log and writers cost, of a step of the demo.

Run: python benchmarks/view.py [--json]; a minute. A step of 0.3 s is two cores' demo; the view runs
in the launching process, log and writers on the first rank.
"""

import contextlib
import io
import os
import pty
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.claim import Figure, Row, run

CLAIM = "Looking at a run costs it nothing"

STEP_S = 0.3  # of the demo, on two cores
STEPS = 300


def metrics(step: int) -> dict[str, Any]:
    """As many numbers as a step has."""
    made = {"step": step, "loss": 3.0, "grad_norm": 1.0, "lr": 1e-3, "tokens_per_s": 6e3}
    made |= {"step_s": STEP_S, "time": time.time() + step / 1e3, "memory_gib": 0.5, "mfu": None}
    if step % 50:
        return made
    idle = {f"idle_{cause}": 0.01 for cause in ("ramp", "peer", "gather", "tail", "host")}
    return made | {"val_loss": 3.0, "bubble": 0.1, "bubble_predicted": 0.08} | idle


def processor_s(what: Callable[[int], None], times: int) -> float:
    """Of this process, with its threads, for one call."""
    begun = time.process_time()
    for step in range(1, times + 1):
        what(step)
    return (time.process_time() - begun) / times


def log_s(folder: Path, tensorboard: bool) -> float:
    """Of the lines of metrics and words of a step, and of TensorBoard's files."""
    from zeropp.train.config import RunConfig
    from zeropp.train.log import Log
    from zeropp.train.writers import makers_of

    log = Log(folder, STEPS, leads=True)
    log.add(makers_of(RunConfig(tensorboard=tensorboard), folder, 0, {}))
    with contextlib.redirect_stdout(io.StringIO()):
        found = processor_s(lambda step: log.write(metrics(step)), STEPS)
        log.close()
    return found


def look_s(folder: Path) -> float:
    """Of one look of the view at a run that made a step since the last, drawn on a terminal."""
    from zeropp.report.live import View
    from zeropp.train.log import Log

    master, slave = pty.openpty()
    log, drain = Log(folder, STEPS, leads=True), os.set_blocking
    drain(master, False)
    with View(folder, STEPS, slave) as view, contextlib.redirect_stdout(io.StringIO()):
        log.write(metrics(0))
        found = []
        for step in range(1, STEPS + 1):
            log.write(metrics(step))
            begun = time.process_time()
            view.take(["a line"] if step % 10 == 0 else [])
            view._drawn = 0.0  # the next look is due
            found.append(time.process_time() - begun)
            with contextlib.suppress(BlockingIOError):
                os.read(master, 1 << 20)
    os.close(slave)
    os.close(master)
    return statistics.fmean(found)


def measure() -> tuple[list[Row], list[Figure]]:
    """A row for each, in milliseconds of a processor a step."""
    from zeropp.report.live import _REFRESH_S

    found = {}
    for name, tensorboard in (("log", False), ("log and TensorBoard", True)):
        with tempfile.TemporaryDirectory() as folder:
            found[name] = log_s(Path(folder), tensorboard)
    with tempfile.TemporaryDirectory() as folder:
        found["view"] = look_s(Path(folder)) * STEP_S / _REFRESH_S
    rows: list[Row] = [
        {"what": name, "ms a step": seconds * 1e3, "share": seconds / STEP_S}
        for name, seconds in found.items()
    ]
    view = 100 * found["view"] / STEP_S
    whole = 100 * (found["view"] + found["log and TensorBoard"]) / STEP_S
    return rows, [
        Figure("the view's processor time, of a step", view, 0.5),
        Figure("with log and TensorBoard, of a step", whole, 1.0),
    ]


if __name__ == "__main__":
    run(CLAIM, measure)

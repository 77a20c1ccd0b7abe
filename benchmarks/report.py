"""How long a page about runs takes to make and to open, with 100,000 steps.

Run: python benchmarks/report.py [--json]; a Chromium, a minute.
"""

import json
import random
import statistics
import tempfile
import time
from pathlib import Path

from support.claim import Figure, Row, run

CLAIM = "A page about a long run opens at once"

STEPS = 100_000
OPENED = 5  # times, of which the median counts
EVERY = 50  # steps between evaluations


def made(folder: Path, number: int) -> Path:
    """A run of many steps, with losses that have spikes."""
    path, chance = folder / f"run-{number}", random.Random(number)
    path.mkdir()
    (path / "config.toml").write_text(f"[run]\nsteps = {STEPS}\nseed = {number}\n")
    with (path / "metrics.jsonl").open("w") as file:
        for step in range(1, STEPS + 1):
            loss = 8 / step**0.1 + chance.gauss(0, 0.05) + (chance.random() < 1e-4)
            one = {"step": step, "loss": loss, "grad_norm": abs(chance.gauss(1, 0.2)), "lr": 1e-3}
            one |= {"tokens_per_s": 5e4, "step_s": 0.3, "time": 1e9 + 0.3 * step, "memory_gib": 3.0}
            if step % EVERY == 0:
                one |= {"val_loss": loss, "bubble": 0.1, "bubble_predicted": 0.08}
                one |= {"idle_peer": 0.06, "idle_ramp": 0.04}
            file.write(json.dumps(one) + "\n")
    return path


def opened(page: Path) -> float:
    """Seconds until the page's load event, median."""
    from support import browser

    found = []
    with browser.opened() as chromium:
        for _ in range(OPENED):
            tab = chromium.new_page()
            tab.goto(page.as_uri())
            found.append(tab.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))
            tab.close()
    return statistics.median(found) / 1e3


def measure() -> tuple[list[Row], list[Figure]]:
    """A row for one run, and one for eight."""
    from zeropp.report.page import write_report

    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = [made(folder, number) for number in range(8)]
        for count in (1, 8):
            page = folder / f"{count}.html"
            begun = time.perf_counter()
            write_report(runs[:count], page)
            seconds = time.perf_counter() - begun
            size = page.stat().st_size / 2**20
            rows.append({"runs": count, "made s": seconds, "MiB": size, "opened s": opened(page)})
    one, eight = rows
    return rows, [
        Figure("one run of 100,000 steps, opened", float(one["opened s"]), 2.0, "s"),
        Figure("eight of them, opened", float(eight["opened s"]), 2.0, "s"),
    ]


if __name__ == "__main__":
    run(CLAIM, measure)

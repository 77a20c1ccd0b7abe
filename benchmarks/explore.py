"""From the move of a slider of `zeropp explore` to the schedule redrawn, in a real browser.

Run: python benchmarks/explore.py [--json] [--moves N]; half a minute. Chromium has to be here, and
for the browser's own Python npm, or build/pyodide.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from support.claim import Figure, Row, parser, report
from zeropp.explore.answers import answer
from zeropp.explore.site import write_site

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CLAIM = "A moved slider is seen at once"

P, B = 8, 32
SERVED_MS, ALONE_MS = 300, 1500
MOVE = """async ([name, value]) => {
  const row = document.getElementById(`field-controls-${name}`).parentElement;
  const slider = row.querySelector("[type=range]");
  const began = performance.now();
  slider.value = value;
  slider.dispatchEvent(new Event("input"));
  while (JSON.parse(document.body.dataset.answers)[name] !== value)
    await new Promise(requestAnimationFrame);
  await new Promise(requestAnimationFrame);
  return performance.now() - began;
}"""


@contextmanager
def served() -> Iterator[str]:
    """The address of a local server's page."""
    from support.explore import serving  # of the tests too

    with serving() as server:
        yield server.address


@contextmanager
def alone() -> Iterator[str]:
    """The address of a static site."""
    from support.pyodide import pyodide_folder, site_at  # of the tests, where claim.py finds it

    pyodide = pyodide_folder()
    if pyodide is None:
        raise SystemExit("the npm package pyodide is neither in build/pyodide nor to be had")
    with tempfile.TemporaryDirectory() as folder:
        write_site(Path(folder) / "site", pyodide)
        with site_at(Path(folder) / "site") as address:
            yield f"{address}index.html"


def moves(browser: "Browser", address: str, number: int) -> list[float]:
    """Milliseconds of moves of B around 32, and of the latency, at P = 8."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(address)
    page.wait_for_selector("body[data-ready]", timeout=60_000)
    page.evaluate(MOVE, ["pp", P])
    page.evaluate(MOVE, ["microbatches", B])
    every = [("microbatches", B - 1 - n // 2) for n in range(number)]
    every[1::2] = [("p2p", round(0.05 * (1 + n), 2)) for n in range(number // 2)]
    found: list[float] = [page.evaluate(MOVE, list(move)) for move in every]
    page.close()
    return found


def answered(number: int) -> list[float]:
    """Milliseconds of the same answers alone, in this Python, without browser and drawing."""
    found = []
    for n in range(number):
        wanted = {"pp": P, "microbatches": B - n // 2, "p2p": round(0.05 * (n % 2), 2)}
        began = time.perf_counter()
        answer({"do": "simulate", "wanted": wanted})
        found.append(1000 * (time.perf_counter() - began))
    return found


def measure(wanted: argparse.Namespace) -> tuple[list[Row], list[Figure]]:
    """A row for each kind of page, and one of the answers alone."""
    from support.browser import opened  # of the tests too

    times = {"answers alone": answered(wanted.moves)}
    with opened() as browser:
        for name, kind in (("local server", served), ("browser's own Python", alone)):
            with kind() as address:
                times[name] = moves(browser, address, wanted.moves)
    rows: list[Row] = [
        {"where": name, "P": P, "B": B, "moves": len(found), "median ms": median(found)}
        | {"least ms": min(found), "most ms": max(found)}
        for name, found in times.items()
    ]
    targets = {"local server": SERVED_MS, "browser's own Python": ALONE_MS}
    figures = [Figure(name, median(times[name]), most, "ms") for name, most in targets.items()]
    return rows, figures


def main() -> int:
    """Measure and report."""
    options = parser(CLAIM)
    options.add_argument("--moves", type=int, default=20, help="of a slider, in each kind of page")
    wanted = options.parse_args()
    return report(CLAIM, *measure(wanted), wanted)


if __name__ == "__main__":
    sys.exit(main())

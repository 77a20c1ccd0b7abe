"""What tests of `zeropp explore` ask, do with its page, and read from it and the command line."""

import json
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from zeropp.cli.main import main
from zeropp.explore.server import Explorer
from zeropp.generate import GENERATORS

if TYPE_CHECKING:
    from playwright.sync_api import Page

LEFT, RIGHT, TOP, ROW, PITCH = 56, 12, 18, 24, 58  # of a panel without collectives and messages


@contextmanager
def serving() -> Iterator[Explorer]:
    """A server at a free port, that a thread lets serve."""
    with Explorer(0) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.02,))
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def options(wanted: Mapping[str, Any]) -> list[str]:
    """Settings of a page as options of the command line."""
    named = {k: v for k, v in wanted.items() if k != "schedule"}
    rest = [f"--{name.replace('_', '-')}={value}" for name, value in named.items()]
    return [str(wanted.get("schedule", "zeropp")), *rest]


def random_settings(seed: int) -> dict[str, Any]:
    dice = random.Random(seed)
    generator = GENERATORS[dice.choice(list(GENERATORS))]
    wanted: dict[str, Any] = {"schedule": generator.name, "pp": dice.randint(1, 6)}
    wanted["chunks"] = max(generator.chunks) if generator.chunks else dice.randint(1, 3)
    wanted["microbatches"] = dice.randint(2, 12)
    if "unit_size" in generator.options and dice.random() < 0.6:
        wanted["unit_size"] = dice.randint(1, wanted["microbatches"])
    if "seam" in generator.options and dice.random() < 0.5:
        wanted["seam"] = dice.choice(["carry", "strict", "eager", "drain"])
    if dice.random() < 0.5:
        wanted["costs"] = ",".join(str(dice.choice([0.5, 1, 1.25, 2])) for _ in range(3))
    for name in ("p2p", "gather", "reduce", "transfer", "host"):
        if dice.random() < 0.4:
            wanted[name] = dice.choice([0.05, 0.1, 0.25])
    if dice.random() < 0.6:
        wanted["shard"] = dice.choice(["unit", "step", "microbatch"])
    return wanted


def simulated(wanted: Mapping[str, Any], capsys: pytest.CaptureFixture[str]) -> Any:
    capsys.readouterr()
    assert main(["simulate", *options(wanted), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def field(name: str, form: str = "controls") -> str:
    return f"#field-{form}-{name}"


def put(page: "Page", settings: Mapping[str, Any]) -> None:
    """Fill in these settings, as a person does."""
    for name, value in settings.items():
        element = page.locator(field(name))
        if element.evaluate("e => e.tagName") == "SELECT":
            element.select_option(str(value))
        else:
            element.fill(str(value))


def settled(page: "Page", holds: Callable[[dict[str, Any]], bool] = lambda wanted: True) -> None:
    """Wait until what is seen is of the settings that the page has now, and these are as asked."""
    for _ in range(400):
        state = page.evaluate("({...document.body.dataset})")
        wanted = json.loads(state.get("answers", "null"))
        if state.get("busy") == "" and wanted is not None and holds(wanted):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"the page stays {state}")


def until(page: "Page", holds: str) -> None:
    """Wait until an expression holds; the page's policy forbids that scripts are made of text."""
    for _ in range(400):
        if page.evaluate(holds):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"it never holds: {holds}")


def shows(settings: Mapping[str, Any]) -> Callable[[dict[str, Any]], bool]:
    return lambda wanted: all(wanted.get(name) == value for name, value in settings.items())


def table(page: "Page", name: str) -> dict[str, list[str]]:
    """The rows of a table by their first cell."""
    rows = page.eval_on_selector_all(
        f"#{name} tbody tr", "rows => rows.map(r => [...r.cells].map(c => c.textContent.trim()))"
    )
    return {first: rest for first, *rest in rows}


def headline(page: "Page") -> dict[str, str]:
    names, values = (page.locator(f"#headline {tag}").all_inner_texts() for tag in ("dt", "dd"))
    return dict(zip(names, values, strict=True))


def place(page: "Page", rank: int, time: float, end: float) -> tuple[float, float]:
    """Where the compute row of a rank is at a time, in a panel that shows all to `end`."""
    page.locator("#panels canvas").first.scroll_into_view_if_needed()
    box = page.locator("#panels canvas").first.bounding_box()
    assert box is not None
    x = box["x"] + LEFT + time / end * (box["width"] - LEFT - RIGHT)
    return x, box["y"] + TOP + PITCH * rank + ROW / 2


def drag(page: "Page", rank: int, start: float, to: float, end: float) -> None:
    """The action at a time to another time in its row."""
    x, y = place(page, rank, start, end)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move((x + place(page, rank, to, end)[0]) / 2, y)
    page.mouse.move(place(page, rank, to, end)[0], y)
    page.mouse.up()

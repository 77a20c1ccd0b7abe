"""The page about runs in a real browser: drawn, by keyboard, narrow, and by itself."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from support.browser import complaints_of, opened, requests_of, require_browser
from support.runs import make_run
from zeropp.cli.main import main

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with opened(require_browser()) as found:
        yield found


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("page")
    runs = [str(make_run(folder / name, lr=lr)) for name, lr in (("a", 0.1), ("b", 0.2))]
    assert main(["report", *runs, "-o", str(folder / "report.html")]) == 0
    return (folder / "report.html").as_uri()


def test_it_opens_without_a_complaint_and_asks_for_nothing(
    browser: "Browser", address: str
) -> None:
    tab = browser.new_page()
    complaints, requests = complaints_of(tab), requests_of(tab)
    tab.goto(address)
    for panel in ("speed", "memory", "timeline", "plan", "configuration", "warnings", "curves"):
        tab.click(f"#tab-{panel}")
        assert tab.is_visible(f"#{panel}")
    assert tab.locator("#plot-loss .scatterlayer .trace").count() == 6
    assert tab.locator("#plot-timeline .bars").count() == 4
    assert tab.inner_text("#plot-mfu") == "MFU is not known on this device."
    assert complaints == []
    assert requests == [address]
    tab.close()


def test_tabs_go_by_keyboard(browser: "Browser", address: str) -> None:
    tab = browser.new_page()
    tab.goto(address)
    tab.focus("#tab-curves")
    for key, panel in (("ArrowRight", "speed"), ("End", "warnings"), ("ArrowRight", "curves")):
        tab.keyboard.press(key)
        assert tab.evaluate("document.activeElement.id") == f"tab-{panel}"
        assert tab.is_visible(f"#{panel}")
        assert tab.locator("[role=tab][aria-selected=true]").count() == 1
    tab.close()


def test_what_is_chosen_is_drawn(browser: "Browser", address: str) -> None:
    tab = browser.new_page()
    tab.goto(address)
    ends = "document.getElementById('plot-loss').data.at(-1).x.at(-1)"
    assert tab.evaluate(ends) == 30
    tab.select_option("#against", "tokens")
    assert tab.evaluate(ends) == 6000
    tab.check("#log")
    assert tab.evaluate("document.getElementById('plot-loss').layout.yaxis.type") == "log"
    tab.select_option("#run", "1")
    tab.click("#tab-timeline")
    assert tab.locator("#plot-timeline .bars").count() == 4
    tab.close()


def test_a_narrow_screen_has_no_overflow(browser: "Browser", address: str) -> None:
    tab = browser.new_page(viewport={"width": 390, "height": 844})
    tab.goto(address)
    for name in tab.eval_on_selector_all("[role=tab]", "tabs => tabs.map((tab) => tab.id)"):
        tab.click(f"#{name}")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.close()


def test_all_of_it_is_printed(browser: "Browser", address: str) -> None:
    tab = browser.new_page()
    tab.goto(address)
    assert tab.pdf()[:4] == b"%PDF"
    tab.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    tab.emulate_media(media="print")
    widths = "all => all.map((one) => one.getBoundingClientRect().width)"
    drawn = tab.eval_on_selector_all(".plot:not(.empty) .main-svg:first-child", widths)
    assert len(drawn) == 8
    assert min(drawn) > 1000
    assert not tab.is_visible("#tabs")
    tab.evaluate("window.dispatchEvent(new Event('afterprint'))")
    tab.emulate_media(media="screen")
    assert tab.locator(".panel:visible").count() == 1
    tab.close()

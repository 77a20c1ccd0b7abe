"""Pages in a real browser: a Chromium of this system, what it complains of, what it asks for."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def browser_path() -> str | None:
    """Of the first Chromium that is found."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def require_browser() -> str:
    """The path of a Chromium, or the test is skipped."""
    path = browser_path()
    if path is None:
        pytest.skip(f"none of {', '.join(NAMES)} is here")
    return path


@contextmanager
def opened(path: str | None = None) -> Iterator["Browser"]:
    """A browser, which is closed in the end."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path or require_browser(), args=[*QUIET]
        )
        try:
            yield browser
        finally:
            browser.close()


def complaints_of(page: "Page") -> list[str]:
    """A list that grows by every error of the page's console and scripts, from now on."""
    found: list[str] = []
    page.on("console", lambda said: found.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    return found


def requests_of(page: "Page") -> list[str]:
    """A list that grows by the URL of everything that the page asks for, from now on."""
    found: list[str] = []
    page.on("request", lambda request: found.append(request.url))
    return found

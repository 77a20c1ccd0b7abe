"""A served page in a real browser, about which nothing may complain, and which asks nobody else."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from support.browser import complaints_of, opened, requests_of
from support.explore import serving
from zeropp.explore.server import Explorer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Opener = Callable[..., "Page"]


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    with opened() as made:
        yield made


@pytest.fixture(scope="module")
def explorer() -> Iterator[Explorer]:
    with serving() as made:
        yield made


@pytest.fixture
def open_page(browser: "Browser") -> Iterator[Callable[..., "Page"]]:
    """Opens an address; in the end nothing was complained of, and nobody else was asked."""
    watched: list[tuple[Page, str, list[str], list[str]]] = []

    def open_at(address: str, width: int = 1280, height: int = 900) -> "Page":
        page = browser.new_page(viewport={"width": width, "height": height})
        own = address.partition("#")[0].rpartition("/")[0]
        watched.append((page, own, complaints_of(page), requests_of(page)))
        page.goto(address)
        page.wait_for_selector("body[data-ready]", timeout=60_000)
        return page

    yield open_at
    for page, own, complaints, requests in watched:
        page.close()
        assert complaints == []
        assert requests
        foreign = [
            url for url in requests if not url.startswith((own, "data:", f"blob:{own[:16]}"))
        ]
        assert foreign == []

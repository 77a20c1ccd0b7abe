"""How many examples property tests try: 300, or 5,000 with `--hypothesis-profile nightly`."""

import gc
import signal

import pytest
from hypothesis import settings

settings.register_profile("default", max_examples=300, deadline=None)
settings.register_profile("nightly", max_examples=5_000, deadline=None)
settings.load_profile("default")

# a shell's background jobs ignore Ctrl-C, and so would all that the tests start
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file begins first, or one worker is alone with it in the end."""
    items.sort(key=lambda item: item.path.name != "test_exactness.py")


def pytest_collection_finish() -> None:
    """What was imported is not looked through for garbage after every other test."""
    gc.freeze()

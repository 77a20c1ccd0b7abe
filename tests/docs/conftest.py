"""The scripts that fill the pages, as modules."""

from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


@pytest.fixture
def pages(scripts: None) -> ModuleType:
    import docs

    return docs


@pytest.fixture
def measured(scripts: None) -> ModuleType:
    import measured

    return measured


@pytest.fixture
def simulated(scripts: None) -> ModuleType:
    import simulated

    return simulated

"""Weights in and out need a loader that older releases of transformers do not have."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import zeropp.hf.loader as loader
from support.decoders import decoder
from zeropp import hf


@pytest.mark.parametrize(
    ("name", "ask"),
    [
        ("hf.load", hf.load),
        ("hf.check", hf.check),
        ("hf.save", lambda folder, model: hf.save_states(iter(()), 0, model, folder)),
    ],
)
def test_the_release_that_is_wanted_is_named(
    name: str, ask: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "_THERE", False)
    with pytest.raises(
        ValueError, match=rf"^{name}: it needs transformers 5\.24 or later, this is"
    ):
        ask(tmp_path / "model", decoder("llama"))

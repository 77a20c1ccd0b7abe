"""Curves over one knob."""

from pathlib import Path

import pytest

from zeropp.show import Curve, draw_curves

CURVES = (Curve("step, s", (3.0, 2.0, 2.5)), Curve("memory, GiB", (1.0, 2.0, 9.0), limit=4.0))


@pytest.mark.parametrize("suffix", [".svg", ".png"])
def test_curves_become_a_picture_that_is_always_the_same(tmp_path: Path, suffix: str) -> None:
    paths = [tmp_path / f"{name}{suffix}" for name in ("one", "two")]
    for path in paths:
        draw_curves("t", "U", [1, 2, 4], CURVES, path, chosen=2, fits=[True, True, False])
    assert paths[0].read_bytes() == paths[1].read_bytes()
    if suffix == ".svg":
        text = paths[0].read_text("utf-8")
        assert all(label in text for label in ("step, s", "memory, GiB", ">U<"))


def test_other_suffixes_and_lengths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.svg or \.png"):
        draw_curves("t", "U", [1, 2, 4], CURVES, tmp_path / "curves.txt")
    with pytest.raises(ValueError, match="step, s: 3 values, 2 needed"):
        draw_curves("t", "U", [1, 2], CURVES, tmp_path / "curves.svg")
    assert list(tmp_path.iterdir()) == []

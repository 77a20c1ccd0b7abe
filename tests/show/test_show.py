"""`show`: the suffix decides the form, and mistakes are refused before any file is made."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import zeropp.show
from zeropp.ir import Placement, Shape, Timeline
from zeropp.show import draw_text, show

Make = Callable[..., Timeline]


def test_every_suffix(make: Make, tmp_path: Path) -> None:
    both = [make("1f1b", 2, 1, 3), make("gpipe", 2, 1, 3)]
    for suffix in zeropp.show.SUFFIXES:
        show(both, tmp_path / f"picture{suffix}")
    assert (tmp_path / "picture.txt").read_text() == f"{draw_text(both[0])}\n{draw_text(both[1])}"
    assert (tmp_path / "picture.svg").read_text().startswith("<?xml")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "picture.json").read_text())["traceEvents"]


def test_a_path_may_be_text(make: Make, tmp_path: Path) -> None:
    show([make("1f1b", 2, 1, 2)], str(tmp_path / "picture.txt"))
    assert (tmp_path / "picture.txt").exists()


@pytest.mark.parametrize("name", ["picture.pdf", "picture", "picture.PNG", "txt"])
def test_unknown_suffix(make: Make, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"^output must end in \.txt, \.svg, \.png, \.json; got"):
        show([make("1f1b", 2, 1, 2)], tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", zeropp.show.SUFFIXES)
def test_nothing_is_written_on_a_mistake(make: Make, tmp_path: Path, suffix: str) -> None:
    timeline = make("1f1b", 2, 1, 2)
    words = r"^output: cannot write \S+: folder \S+missing' does not exist"
    with pytest.raises(ValueError, match=words):
        show([timeline], tmp_path / "missing" / f"picture{suffix}")
    with pytest.raises(ValueError, match="at least one timeline"):
        show([], tmp_path / f"picture{suffix}")
    empty = Timeline("empty", Placement(Shape.LOOP, 2, 1), ((), ()))
    with pytest.raises(ValueError, match="timeline 'empty' has no span that takes time"):
        show([timeline, empty], tmp_path / f"picture{suffix}")
    assert not list(tmp_path.iterdir())


def test_a_folder_is_no_file(make: Make, tmp_path: Path) -> None:
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(ValueError, match=r"^output: .* is a folder"):
        show([make("1f1b", 2, 1, 2)], tmp_path / "folder.txt")


def test_public_names() -> None:
    assert sorted(zeropp.show.__all__) == [
        "Curve",
        "MemoryCurves",
        "SUFFIXES",
        "check_output",
        "check_picture",
        "draw_curves",
        "draw_picture",
        "draw_text",
        "show",
        "trace_events",
        "write_trace",
    ]

"""Memory in pictures: peaks beside their ranks, curves to one scale, nothing without memory."""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from zeropp.ir import Timeline
from zeropp.show import MemoryCurves, draw_picture, show
from zeropp.show.layout import lay_out
from zeropp.show.memory import Curve, outline
from zeropp.show.palette import HELD

Make = Callable[..., Timeline]

LOW: Curve = ((0.0, 0.0), (1.0, 2.5), (6.0, 0.0))
HIGH: Curve = ((0.0, 1.0), (2.0, 7.25), (3.0, 1.0))
MEMORY = MemoryCurves(((LOW, HIGH),), "held, in GiB")
FILL = "#" + "".join(f"{round(255 * part):02x}" for part in HELD)


def texts(path: Path) -> Counter[str]:
    nodes = ElementTree.parse(path).getroot().iter("{http://www.w3.org/2000/svg}text")
    return Counter("".join(node.itertext()) for node in nodes)


def test_peaks_stand_beside_their_ranks(make: Make, tmp_path: Path) -> None:
    draw_picture([make("1f1b", 2, 1, 2)], tmp_path / "with.svg", memory=MEMORY)
    shown = texts(tmp_path / "with.svg")
    assert shown["peak 2.5"] == shown["peak 7.25"] == shown["held, in GiB"] == 1
    assert (tmp_path / "with.svg").read_text().count(f"fill: {FILL}") == 3  # ranks and legend


def test_without_memory_the_picture_is_as_before(make: Make, tmp_path: Path) -> None:
    timeline = make("1f1b", 2, 1, 2)
    draw_picture([timeline], tmp_path / "without.svg")
    assert not any(text.startswith("peak") for text in texts(tmp_path / "without.svg"))
    assert FILL not in (tmp_path / "without.svg").read_text()
    plain, more = lay_out([timeline]), lay_out([timeline], memory=MEMORY)
    assert plain.height < more.height
    assert plain.panels[0].row == more.panels[0].row
    assert not plain.panels[0].curves


def test_curves_of_all_panels_have_one_scale(make: Make, tmp_path: Path) -> None:
    two = [make("1f1b", 2, 1, 2), make("gpipe", 2, 1, 2)]
    memory = MemoryCurves(((LOW, LOW), (LOW, HIGH)), "held")
    assert [panel.most for panel in lay_out(two, memory=memory).panels] == [7.25, 7.25]
    draw_picture(two, tmp_path / "both.svg", memory=memory)
    assert texts(tmp_path / "both.svg")["peak 2.5"] == 3


def test_an_outline_has_a_corner_where_the_amount_changes() -> None:
    curve = ((0.0, 0.0), (1.0, 2.0), (2.0, 2.0), (3.0, 1.0))
    steps = [(0.0, 0.0), (1.0, 0.0), (1.0, 2.0), (3.0, 2.0), (3.0, 1.0), (5.0, 1.0)]
    assert list(outline(curve, 5.0)) == steps


def test_every_form_takes_memory(make: Make, tmp_path: Path) -> None:
    for suffix in ("txt", "svg", "png", "json"):
        show([make("1f1b", 2, 1, 2)], tmp_path / f"picture.{suffix}", memory=MEMORY)
        assert (tmp_path / f"picture.{suffix}").stat().st_size > 100


@pytest.mark.parametrize(
    ("curve", "says"),
    [
        ((), "rank 0 must have at least one amount"),
        (((1.0, 1.0), (0.0, 1.0)), "rank 0 must list its times in order"),
        (((0.0, -1.0),), "rank 0 must be finite and 0 or more, got -1"),
        (((0.0, math.nan),), "rank 0 must be finite and 0 or more, got nan"),
        (((0.0, 0.0),), "memory must be above 0 somewhere"),
    ],
)
def test_bad_curves_are_refused(curve: Curve, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        MemoryCurves(((curve,),), "held")


def test_memory_of_other_timelines_is_refused(make: Make, tmp_path: Path) -> None:
    for timelines in ([make("1f1b", 3, 1, 2)], [make("1f1b", 2, 1, 2)] * 2):
        with pytest.raises(ValueError, match="memory must have a curve for each rank"):
            draw_picture(timelines, tmp_path / "picture.svg", memory=MEMORY)
    assert not list(tmp_path.iterdir())

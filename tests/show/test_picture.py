"""Pictures: valid files that show every rank, micro-batch and peak, quickly."""

import math
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from zeropp.ir import Action, Kind, Placement, Shape, Span, Timeline
from zeropp.show import MemoryCurves, draw_picture, show

Make = Callable[..., Timeline]
Steps = tuple[tuple[float, float], ...]

LOW: Steps = ((0.0, 0.0), (1.0, 2.5), (6.0, 0.0))
HIGH: Steps = ((0.0, 1.0), (2.0, 7.25), (3.0, 1.0))
MEMORY = MemoryCurves(((LOW, HIGH),), "held, in GiB")
FILL = "#ccd9e3"  # of memory


def texts(path: Path) -> Counter[str]:
    """Every piece of text in an SVG file, which must be well-formed."""
    root = ElementTree.parse(path).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    return Counter("".join(n.itertext()) for n in root.iter("{http://www.w3.org/2000/svg}text"))


def png_size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert data.rstrip().endswith(b"IEND\xaeB`\x82")
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


def test_svg_names_everything(make: Make, tmp_path: Path) -> None:
    draw_picture([make("zeropp", 4, 2, 8)], tmp_path / "picture.svg", floor=25.5)
    shown = texts(tmp_path / "picture.svg")
    assert [shown[f"rank {rank}"] for rank in range(5)] == [1, 1, 1, 1, 0]
    for microbatch in (6, 7):  # F, B and W in each of 8 stages, and no label of the time axis
        assert shown[str(microbatch)] == 24
    assert all(shown[str(microbatch)] >= 24 for microbatch in range(8))
    assert shown["zeropp"] == shown["P=4 V=2 B=8"] == shown["floor 25.5 f"] == 1
    assert any("makespan 27 f (5.9 % over the floor)" in text for text in shown)
    assert any("bubble ratio 11.1 % = idle / (P x makespan)" in text for text in shown)
    legend = {"F forward", "B input gradient", "W weight gradient", "chunk 0 to 1", "idle"}
    assert legend <= set(shown)
    assert not {"BW fused backward", MEMORY.label} & set(shown)


def test_large_schedule_is_drawn_quickly_with_its_numbers(make: Make, tmp_path: Path) -> None:
    timeline = make("zeropp", 8, 2, 32)
    draw_picture([make("1f1b", 2, 1, 2)], tmp_path / "first.png")  # imports and fonts
    for name in ("large.svg", "large.png"):
        started = time.process_time()
        draw_picture([timeline], tmp_path / name)
        assert time.process_time() - started < 6.0  # 1.5 s is usual; slack for slow machines
    assert texts(tmp_path / "large.svg")["31"] == 48
    assert png_size(tmp_path / "large.png") > (2000, 800)


def test_one_unit_shares_one_axis(make: Make, tmp_path: Path) -> None:
    three = [make("1f1b", 4, 1, 8), make("interleaved-1f1b", 4, 2, 8), make("zeropp", 4, 2, 8)]
    draw_picture(three, tmp_path / "compare.svg", floor=27.0)
    shown = texts(tmp_path / "compare.svg")
    assert shown["time (f)"] == 1
    assert shown["floor 27 f"] == shown["rank 3"] == 3
    assert all(shown[timeline.title] == 1 for timeline in three)
    assert any("makespan 27 f (the floor)" in text for text in shown)


def test_units_that_differ_have_axes_of_their_own(
    make: Make, measured: Timeline, tmp_path: Path
) -> None:
    predicted = replace(make("zeropp", 4, 2, 4), title="predicted")
    draw_picture([predicted, measured], tmp_path / "both.svg", floor=13.5)
    shown = texts(tmp_path / "both.svg")
    assert shown["time (f)"] == shown["time (ms)"] == shown["floor 13.5 f"] == 1
    assert shown["predicted"] == shown["measured"] == 1


def test_a_long_title_has_a_line_of_its_own(make: Make, tmp_path: Path) -> None:
    heights = []
    for title in ("short", "long" * 20):
        draw_picture([replace(make("1f1b", 2, 1, 2), title=title)], tmp_path / "title.svg")
        svg = (tmp_path / "title.svg").read_text()
        name, figures = (re.search(rf"([\d.]+)\)\">{t}", svg) for t in (title, "makespan"))
        assert name is not None
        assert figures is not None
        heights.append(float(figures[1]) - float(name[1]))
    assert heights == [0, pytest.approx(14, abs=2)]


def test_communication_is_drawn_where_it_takes_time(
    make: Make, with_communication: Timeline, tmp_path: Path
) -> None:
    draw_picture([with_communication], tmp_path / "lanes.svg")
    shown = set(texts(tmp_path / "lanes.svg"))
    assert {"UNSHARD", "REDUCE", "SEND", "RECV"} <= shown
    assert "RESHARD" not in shown  # takes no time here
    compute, free = make("1f1b", 2, 1, 2), Span(Action(Kind.SEND_F, 0, 0), 1.0, 1.0)
    for name, spans in (("none", compute.spans[0]), ("free", (*compute.spans[0], free))):
        timeline = replace(compute, spans=(spans, compute.spans[1]))
        draw_picture([timeline], tmp_path / f"{name}.svg")
    assert (tmp_path / "none.svg").read_bytes() == (tmp_path / "free.svg").read_bytes()


def test_each_timeline_may_have_its_floor(make: Make, tmp_path: Path) -> None:
    both = [make("1f1b", 4, 1, 8), make("zeropp", 4, 2, 8)]
    draw_picture(both, tmp_path / "floors.svg", floor=[27.0, 25.5])
    shown = texts(tmp_path / "floors.svg")
    assert shown["floor 27 f"] == shown["floor 25.5 f"] == 1
    with pytest.raises(ValueError, match="floor must list 2, one a timeline; got 1"):
        draw_picture(both, tmp_path / "few.svg", floor=[27.0])
    with pytest.raises(ValueError, match="floor must be a positive time, got nan"):
        draw_picture(both, tmp_path / "few.svg", floor=[27.0, float("nan")])


def test_peaks_stand_beside_their_ranks(make: Make, tmp_path: Path) -> None:
    timeline, path = make("1f1b", 2, 1, 2), tmp_path / "picture.svg"
    draw_picture([timeline], path, memory=MEMORY)
    shown = texts(path)
    assert shown["peak 2.5"] == shown["peak 7.25"] == shown["held, in GiB"] == 1
    assert path.read_text().count(f"fill: {FILL}") == 3  # ranks and legend
    draw_picture([timeline], path)
    assert "peak" not in path.read_text()
    assert FILL not in path.read_text()


def test_curves_of_all_panels_have_one_scale(make: Make, tmp_path: Path) -> None:
    two, heights = [make("1f1b", 2, 1, 2), make("gpipe", 2, 1, 2)], []
    for other in (LOW, HIGH):
        memory = MemoryCurves(((LOW, LOW), (LOW, other)), "held")
        draw_picture(two, tmp_path / "both.svg", memory=memory)
        first = (tmp_path / "both.svg").read_text().split('"FillBetweenPolyCollection_1"')[1]
        ends = [float(y) for y in re.findall(r"[ML] \S+ (\S+)", first.partition("z")[0])]
        heights.append(max(ends) - min(ends))
    assert heights[1] / heights[0] == pytest.approx(2.5 / 7.25, rel=0.01)


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
def test_bad_curves_are_refused(curve: Steps, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        MemoryCurves(((curve,),), "held")


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_same_timeline_gives_the_same_file(make: Make, tmp_path: Path, suffix: str) -> None:
    one, two = tmp_path / f"one.{suffix}", tmp_path / f"two.{suffix}"
    for path in (one, two):
        show([make("1f1b", 2, 1, 3)], path, floor=9.0, memory=MEMORY)
    assert one.read_bytes() == two.read_bytes()


def test_matplotlib_is_left_alone(make: Make, tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    draw_picture([make("1f1b", 2, 1, 2)], tmp_path / "picture.svg")
    assert dict(matplotlib.rcParams) == before
    code = "import sys, zeropp.show; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_refusals(make: Make, tmp_path: Path) -> None:
    timeline, path = make("1f1b", 2, 1, 2), tmp_path / "picture.svg"
    with pytest.raises(ValueError, match=r"must end in \.svg or \.png"):
        draw_picture([timeline], tmp_path / "picture.pdf")
    with pytest.raises(ValueError, match="floor must be a positive time, got -1"):
        draw_picture([timeline], path, floor=-1.0)
    with pytest.raises(ValueError, match="at least one timeline"):
        draw_picture([], path)
    empty = Timeline("empty", Placement(Shape.LOOP, 1, 1), ((),))
    with pytest.raises(ValueError, match="timeline 'empty' has no span"):
        draw_picture([timeline, empty], path)
    for others in ([make("1f1b", 3, 1, 2)], [timeline] * 2):
        with pytest.raises(ValueError, match="memory must have a curve for each rank"):
            draw_picture(others, path, memory=MEMORY)
    assert not list(tmp_path.iterdir())

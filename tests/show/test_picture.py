"""Pictures: valid files that show every rank and micro-batch, quickly, in colours told apart."""

import itertools
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from zeropp.ir import Action, Kind, Placement, Shape, Span, Timeline
from zeropp.show import draw_picture
from zeropp.show.layout import lay_out, thin_rows
from zeropp.show.palette import Colour, ink_on, shade

Make = Callable[..., Timeline]


def texts(path: Path) -> list[str]:
    """Every piece of text in an SVG file, which must be well-formed."""
    root = ElementTree.parse(path).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    return ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]


def png_size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert data.rstrip().endswith(b"IEND\xaeB`\x82")
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


def test_svg_names_everything(make: Make, tmp_path: Path) -> None:
    timeline = make("zeropp", 4, 2, 8)
    path = tmp_path / "picture.svg"
    draw_picture([timeline], path, floor=25.5)
    shown = Counter(texts(path))
    assert all(shown[f"rank {rank}"] == 1 for rank in range(4))
    assert "rank 4" not in shown
    for microbatch in (6, 7):  # F, B and W in each of 8 stages, and no label of the time axis
        assert shown[str(microbatch)] == 24
    assert all(shown[str(microbatch)] >= 24 for microbatch in range(8))
    assert shown["zeropp"] == 1
    assert shown["P=4 V=2 B=8"] == 1
    assert shown["floor 25.5 f"] == 1
    assert any("makespan 27 f (5.9 % over the floor)" in text for text in shown)
    assert any("bubble ratio 11.1 % = idle / (P x makespan)" in text for text in shown)
    legend = {"F forward", "B input gradient", "W weight gradient", "chunk 0 to 1", "idle"}
    assert legend <= set(shown)
    assert "BW fused backward" not in shown


def test_large_schedule_is_drawn_quickly_with_its_numbers(make: Make, tmp_path: Path) -> None:
    timeline = make("zeropp", 8, 2, 32)
    draw_picture([make("1f1b", 2, 1, 2)], tmp_path / "first.png")  # imports and fonts
    for name in ("large.svg", "large.png"):
        started = time.process_time()
        draw_picture([timeline], tmp_path / name)
        assert time.process_time() - started < 6.0  # 1.5 s is usual; slack for slow machines
    shown = Counter(texts(tmp_path / "large.svg"))
    assert shown["31"] == 48
    assert png_size(tmp_path / "large.png") > (2000, 800)


def test_one_unit_shares_one_axis(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "compare.svg"
    three = [make("1f1b", 4, 1, 8), make("interleaved-1f1b", 4, 2, 8), make("zeropp", 4, 2, 8)]
    draw_picture(three, path, floor=27.0)
    shown = Counter(texts(path))
    assert shown["time (f)"] == 1
    assert shown["floor 27 f"] == 3
    assert all(shown[timeline.title] == 1 for timeline in three)
    assert shown["rank 3"] == 3
    assert any("makespan 27 f (the floor)" in text for text in shown)


def test_units_that_differ_have_axes_of_their_own(
    make: Make, measured: Timeline, tmp_path: Path
) -> None:
    path = tmp_path / "both.svg"
    predicted = replace(make("zeropp", 4, 2, 4), title="predicted")
    draw_picture([predicted, measured], path, floor=13.5)
    shown = Counter(texts(path))
    assert shown["time (f)"] == shown["time (ms)"] == 1
    assert shown["floor 13.5 f"] == 1
    assert shown["predicted"] == shown["measured"] == 1


def test_communication_is_drawn(with_communication: Timeline, tmp_path: Path) -> None:
    draw_picture([with_communication], tmp_path / "lanes.svg")
    shown = set(texts(tmp_path / "lanes.svg"))
    assert {"UNSHARD", "REDUCE", "SEND", "RECV"} <= shown
    assert "RESHARD" not in shown  # takes no time here


def test_lanes_are_there_only_for_what_takes_time(make: Make) -> None:
    compute = make("1f1b", 2, 1, 2)
    free = Span(Action(Kind.SEND_F, 0, 0), 1.0, 1.0)
    sent = Span(Action(Kind.SEND_F, 0, 0), 1.0, 1.5)
    for span, rows in ((free, 0), (sent, 1)):
        spans = ((*compute.spans[0], span), compute.spans[1])
        (panel,) = lay_out([replace(compute, spans=spans)]).panels
        assert len(panel.lanes[0].p2p) == rows
        assert thin_rows(panel.lanes) == rows


def test_each_timeline_may_have_its_floor(make: Make, tmp_path: Path) -> None:
    both = [make("1f1b", 4, 1, 8), make("zeropp", 4, 2, 8)]
    draw_picture(both, tmp_path / "floors.svg", floor=[27.0, 25.5])
    shown = Counter(texts(tmp_path / "floors.svg"))
    assert shown["floor 27 f"] == shown["floor 25.5 f"] == 1
    with pytest.raises(ValueError, match="floor must list 2, one a timeline; got 1"):
        draw_picture(both, tmp_path / "few.svg", floor=[27.0])
    with pytest.raises(ValueError, match="floor must be a positive time, got nan"):
        draw_picture(both, tmp_path / "few.svg", floor=[27.0, float("nan")])


def test_the_same_timeline_gives_the_same_file(make: Make, tmp_path: Path) -> None:
    for suffix in ("svg", "png"):
        one, two = tmp_path / f"one.{suffix}", tmp_path / f"two.{suffix}"
        for path in (one, two):
            draw_picture([make("1f1b", 2, 1, 3)], path)
        assert one.read_bytes() == two.read_bytes()


def test_drawing_leaves_settings_alone(make: Make, tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    draw_picture([make("1f1b", 2, 1, 2)], tmp_path / "picture.svg")
    assert dict(matplotlib.rcParams) == before


def test_importing_does_not_load_matplotlib() -> None:
    code = "import sys, zeropp.show; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_refusals(make: Make, tmp_path: Path) -> None:
    timeline = make("1f1b", 2, 1, 2)
    with pytest.raises(ValueError, match=r"must end in \.svg or \.png"):
        draw_picture([timeline], tmp_path / "picture.pdf")
    with pytest.raises(ValueError, match="floor must be a positive time, got -1"):
        draw_picture([timeline], tmp_path / "picture.svg", floor=-1.0)
    with pytest.raises(ValueError, match="at least one timeline"):
        draw_picture([], tmp_path / "picture.svg")
    empty = Timeline("empty", Placement(Shape.LOOP, 1, 1), ((),))
    with pytest.raises(ValueError, match="timeline 'empty' has no span"):
        draw_picture([timeline, empty], tmp_path / "picture.svg")
    assert not list(tmp_path.iterdir())


# Linear RGB as dichromats see it: Machado, Oliveira and Fernandes 2009, severity 1.0.
VISIONS = {
    "full": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protan": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deutan": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritan": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}


def as_lab(colour: Colour, vision: str) -> np.ndarray:
    """CIE L*a*b* of an sRGB colour as that vision sees it."""
    part = np.array(colour)
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(VISIONS[vision]) @ linear, 0, 1)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = to_xyz @ seen / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("V", [1, 2, 4])
def test_kinds_are_told_apart_without_full_colour_vision(vision: str, V: int) -> None:
    shades = [(k, shade(k, v, V)) for k in (Kind.F, Kind.B, Kind.W, Kind.BW) for v in range(V)]
    for (one, a), (other, b) in itertools.combinations(shades, 2):
        if one is not other:
            assert np.linalg.norm(as_lab(a, vision) - as_lab(b, vision)) > 11


def test_later_chunks_are_lighter_and_numbers_readable() -> None:
    for kind in (Kind.F, Kind.B, Kind.W, Kind.BW):
        lightness = [as_lab(shade(kind, chunk, 4), "full")[0] for chunk in range(4)]
        assert lightness == sorted(lightness)
        for chunk in range(4):
            box = shade(kind, chunk, 4)
            contrast = abs(as_lab(box, "full")[0] - as_lab(ink_on(box), "full")[0])
            assert contrast > 35

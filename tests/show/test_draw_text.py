"""Text pictures: golden ones, exact columns, and what happens where columns cannot be exact."""

import itertools
import random
import re
from collections.abc import Callable
from textwrap import dedent

import pytest

from zeropp.ir import Action, Kind, Placement, Shape, Span, Timeline
from zeropp.show import draw_text

Make = Callable[..., Timeline]


def rank_rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("rank ")]


def test_golden_1f1b(make: Make) -> None:
    assert draw_text(make("1f1b", 2, 1, 3)) == dedent(
        """\
        1f1b  P=2 V=1 B=3  makespan 12 f  bubble ratio 25.0 % = idle / (P x makespan)
        time   0        3        6        9
        rank 0 F0 F1 .  .  BW0-- F2 BW1-- .  BW2--
        rank 1 .  F0 BW0-- F1 BW1-- F2 BW2-- .  .
        F forward   BW fused backward   . idle
        """
    )


def test_golden_zeropp(make: Make) -> None:
    title, ruler, *rows, key = draw_text(make("zeropp", 4, 2, 4)).splitlines()
    assert title == (
        "zeropp  P=4 V=2 B=4  makespan 13.5 f  bubble ratio 11.1 % = idle / (P x makespan)"
    )
    cells = ruler.removeprefix("time   ")
    assert [cells[8 * t : 8 * t + 8].rstrip() for t in range(14)] == [str(t) for t in range(14)]
    assert [row.split(maxsplit=2)[2] for row in rows] == [
        "F0  F1  F2  F3  F0' F1' F2' F3' .   .   .   B0' W0' B1' W1' B2' W2' B3' W3' "
        "B0  W0  B1  W1  B2  W2  B3  W3",
        ".   F0  F1  F2  F3  F0' F1' F2' F3' .   B0' W0' B1' W1' B2' W2' B3' W3' "
        "B0  W0  B1  W1  B2  W2  B3  W3  .",
        ".   .   F0  F1  F2  F3  F0' F1' F2' B0' F3' B1' .   B2' W0' B3' W1' "
        "B0  W2' B1  W3' B2  W0  B3  W1  W2  W3",
        ".   .   .   F0  F1  F2  F3  F0' B0' F1' B1' F2' B2' F3' B3' B0  W0' "
        "B1  W1' B2  W2' B3  W3' W0  W1  W2  W3",
    ]
    assert key == "F forward   B input gradient   W weight gradient   ' chunk 1   . idle"


@pytest.mark.parametrize(
    ("name", "P", "V", "B", "weight", "latency"),
    [
        ("1f1b", 4, 1, 12, 1.0, 0.0),
        ("gpipe", 3, 1, 4, 2.0, 0.0),
        ("interleaved-1f1b", 4, 2, 8, 1.0, 0.25),
        ("zeropp", 4, 3, 5, 1.0, 0.0),
        ("zeropp", 2, 4, 6, 0.5, 0.0),
        ("zeropp", 8, 2, 16, 0.7, 0.1),
    ],
)
def test_every_action_stands_at_its_time(
    make: Make, name: str, P: int, V: int, B: int, weight: float, latency: float
) -> None:
    timeline = make(name, P, V, B, weight=weight, latency=latency)
    rows = [row.removeprefix(f"rank {p} ") for p, row in enumerate(rank_rows(draw_text(timeline)))]
    assert len(rows) == P
    columns_per_time = set()
    for row, spans in zip(rows, timeline.spans, strict=True):
        tokens = list(re.finditer(r"[A-Z]+\d+", row))
        assert [t[0] for t in tokens] == [f"{a.kind}{a.microbatch}" for a, _, _ in spans]
        columns_per_time |= {
            round(token.start() / span.start, 6)
            for token, span in zip(tokens, spans, strict=True)
            if span.start
        }
    assert len(columns_per_time) == 1


def test_chunks_are_told_apart(make: Make) -> None:
    assert "F0''" in draw_text(make("zeropp", 2, 3, 2))
    four = draw_text(make("zeropp", 2, 4, 2))
    assert "F0:3" in four
    assert ":3 chunk 3" in four.splitlines()[-1]


def test_collectives_and_messages_have_rows_of_their_own(with_communication: Timeline) -> None:
    lines = draw_text(with_communication).splitlines()
    labels = [line[:8].strip() for line in lines[2:-1]]
    assert labels == ["rank 0", "shard", "shard", "p2p", "p2p", "rank 1"]
    gathers = {line.index(label) for line, label in ((lines[3], "U0"), (lines[4], "U2"))}
    assert max(gathers) - min(gathers) == lines[2].index("F1") - lines[2].index("F0")
    assert lines[3].split() == ["shard", "U0-------", "R0-------"]
    assert lines[5].split() == ["p2p", ">F0------", "<F0'"]
    assert lines[6].split() == ["p2p", ">F1------"]
    assert "U unshard   R reduce   >F send   <F receive" in lines[-1]


def test_measured_times_are_scaled_to_the_width(measured: Timeline) -> None:
    for width in (40, 80, 200):
        text = draw_text(measured, width=width)
        rows = rank_rows(text)
        assert len(rows) == 4
        assert max(map(len, rows)) <= width
        assert max(map(len, rows)) >= width - 1
        assert "one column = " in text.splitlines()[0]
    assert all(token in rows[3] for token in ("F0", "B0'", "W3'"))


def test_exact_rows_longer_than_the_width_are_scaled(make: Make) -> None:
    timeline = make("zeropp", 4, 2, 8)
    exact = draw_text(timeline)
    longest = max(map(len, rank_rows(exact)))
    assert draw_text(timeline, width=longest + 3) == exact
    assert max(map(len, rank_rows(draw_text(timeline, width=60)))) <= 60


def test_scaled_rows_start_in_order(measured: Timeline) -> None:
    """Staircase: each rank of the first F wave starts further to the right."""
    starts = [row.index("F0") for row in rank_rows(draw_text(measured, width=150))]
    assert all(a < b for a, b in itertools.pairwise(starts))


def test_random_times_never_break_the_rows() -> None:
    rng = random.Random(0)
    placement = Placement(Shape.LOOP, 1, 1)
    for _ in range(50):
        time, spans = rng.uniform(-5, 5), []
        for m in range(rng.randint(1, 12)):
            end = time + rng.choice([0.0, 1e-9, rng.random(), 100 * rng.random()])
            spans.append(Span(Action(Kind.F, 0, m), time, end))
            time = end + rng.choice([0.0, rng.random()])
        spans.append(Span(Action(Kind.BW, 0, 0), time, time + 1.0))
        text = draw_text(Timeline("random", placement, (tuple(spans),)), width=60)
        assert max(map(len, rank_rows(text))) <= 60


def test_a_lane_without_anything_to_see_is_left_out(measured: Timeline) -> None:
    sent = Span(
        Action(Kind.SEND_F, 0, 0), measured.spans[0][0].end, measured.spans[0][0].end + 0.01
    )
    spans = ((*measured.spans[0], sent), *measured.spans[1:])
    text = draw_text(Timeline("short", measured.placement, spans, "ms"))
    assert "p2p" not in text
    assert len(rank_rows(text)) == 4


def test_refusals(make: Make) -> None:
    with pytest.raises(ValueError, match="width must be at least 40 characters, got 10"):
        draw_text(make("1f1b", 2, 1, 2), width=10)
    with pytest.raises(ValueError, match="timeline 'empty' has no span that takes time"):
        draw_text(Timeline("empty", Placement(Shape.LOOP, 2, 1), ((), ())))

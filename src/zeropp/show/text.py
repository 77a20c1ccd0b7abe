"""Text pictures: one row of characters per rank, time from left to right.

1f1b  P=2 V=1 B=3  makespan 12 f  bubble ratio 25.0 % = idle / (P x makespan)
time   0        3        6        9
rank 0 F0 F1 .  .  BW0-- F2 BW1-- .  BW2--
rank 1 .  F0 BW0-- F1 BW1-- F2 BW2-- .  .
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from zeropp.ir.action import Action
from zeropp.ir.placement import Placement
from zeropp.ir.timeline import Timeline
from zeropp.show.palette import meaning
from zeropp.show.parts import Row, figures, kinds_of, number, rows_of, start_of

_FINEST = 1000  # the largest denominator of a time that still counts as exact
_LONGEST = 4000  # the most characters of an exact row where no width is asked for
_SCALED = 160  # the characters of a scaled row where no width is asked for
_NARROWEST = 40  # below this not even the time labels fit


@dataclass(frozen=True)
class _Scale:
    """The map from time to characters."""

    start: float  # the time of column 0
    step: float  # time of one cell
    cell: int  # characters per cell
    columns: int  # characters of the whole time axis
    exact: bool  # whether every span starts and ends at a cell's edge

    def column(self, time: float) -> int:
        return round((time - self.start) / self.step) * self.cell


def draw_text(timeline: Timeline, width: int | None = None) -> str:
    """One row per rank (and one per lane of collectives or P2P below it), a caption and a key.

    A token is the kind and the micro-batch, with `'` for chunk 1 and `''` for chunk 2 (`:v` where V
    is above 3); a collective's token is the kind and the stage. An action longer than a cell goes
    on as `-`; `.` is idle. One cell is the greatest common time step, so that columns are exact.
    Times without one (measured ones), and rows longer than `width`, are scaled: then an action
    without room for its token shows the letters that fit, and one below half a column nothing; a
    lane of only such actions is left out.

    Args:
        timeline: what to draw.
        width: the most characters of a row; None: as many as exactness needs.

    Raises:
        ValueError: a timeline that takes no time, or a width below 40.
    """
    if width is not None and width < _NARROWEST:
        raise ValueError(f"width must be at least {_NARROWEST} characters, got {width}")
    start, rows = start_of(timeline), list(rows_of(timeline))
    margin = max(len(_label(row)) for row in rows) + 1
    scale = _exact(timeline, start, width - margin if width else _LONGEST)
    if scale is None:
        columns = width - margin if width else _SCALED
        scale = _Scale(start, timeline.makespan / columns, 1, columns, exact=False)
    caption = [timeline.title, *figures(timeline)]
    if not scale.exact:
        caption.append(f"one column = {number(scale.step)} {timeline.unit}")
    lines = ["  ".join(caption), f"{'time':<{margin}}{_ruler(scale)}"]
    for row in rows:
        drawn = _drawn(row, scale, timeline.placement)
        if drawn.strip():
            lines.append(f"{_label(row):<{margin}}{drawn}")
    lines.append(_key(timeline))
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _label(row: Row) -> str:
    return {"compute": f"rank {row.rank}", "collectives": "  shard", "p2p": "  p2p"}[row.lane]


def _exact(timeline: Timeline, start: float, room: int) -> _Scale | None:
    """The scale whose cell is the greatest common time step; None if there is none that fits."""
    spans = [span for rank in timeline.spans for span in rank]
    step = _common_step({time - start for span in spans for time in (span.start, span.end)})
    if step is None or timeline.makespan > room * step:
        return None
    cell = max(
        math.ceil((len(_token(span.action, timeline.placement)) + 1) / cells)
        for span in spans
        if (cells := round((span.end - span.start) / step))
    )
    columns = round(timeline.makespan / step) * cell
    return _Scale(start, float(step), cell, columns, exact=True) if columns <= room else None


def _common_step(times: Iterable[float]) -> Fraction | None:
    """The largest step of which every time is a multiple, up to rounding."""
    steps = []
    for time in times:
        step = Fraction(time).limit_denominator(_FINEST)
        if not math.isclose(step, time, rel_tol=1e-9, abs_tol=1e-9):
            return None
        steps.append(step)
    common = math.lcm(*(step.denominator for step in steps))
    return Fraction(math.gcd(*(int(step * common) for step in steps)), common)


def _drawn(row: Row, scale: _Scale, placement: Placement) -> str:
    gap = "." if row.lane == "compute" else " "
    characters = list(gap.ljust(scale.cell) * (scale.columns // scale.cell))
    for span in row.spans:
        first, end = scale.column(span.start), scale.column(span.end)
        characters[first:end] = _bar(_token(span.action, placement), end - first, scale)
    return "".join(characters)


def _bar(token: str, columns: int, scale: _Scale) -> str:
    """`F0-- `: the token, dashes beyond its first cell, and a blank before the next action."""
    if len(token) > columns:
        return token.rstrip("0123456789:'")[:columns].ljust(columns, "-")
    filler = "-" if columns > scale.cell else " "
    return token.ljust(columns - 1, filler).ljust(columns)


def _ruler(scale: _Scale) -> str:
    every = _tick(scale)
    ruler = ""
    for tick in range(math.ceil(scale.columns * scale.step / scale.cell / every)):
        ruler = ruler.ljust(scale.column(scale.start + tick * every)) + number(tick * every)
    return ruler


def _tick(scale: _Scale) -> float:
    """The time between labels: whole cells of an exact scale, and a whole number if one is near.

    Of another scale: 1, 2 or 5 times a power of ten, at least 10 columns wide.
    """
    if scale.exact:
        fewest = math.ceil(8 / scale.cell)
        times = [cells * scale.step for cells in range(fewest, fewest + 100)]
        return next((t for t in times if math.isclose(t, round(t), abs_tol=1e-9)), times[0])
    least = 10 * scale.step
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least)


def _token(action: Action, placement: Placement) -> str:
    """Kind and micro-batch, with a mark for the chunk; a collective has its stage instead."""
    letters, _, _ = meaning(action.kind).partition(" ")
    if action.microbatch is None:
        return f"{letters}{action.stage}"
    chunk = placement.chunk_of(action.stage)
    return f"{letters}{action.microbatch}{_mark(chunk, placement.num_chunks)}"


def _mark(chunk: int, num_chunks: int) -> str:
    if num_chunks <= 3:
        return "'" * chunk
    return f":{chunk}" if chunk else ""


def _key(timeline: Timeline) -> str:
    """What the letters and marks in this picture mean."""
    num_chunks = timeline.placement.num_chunks
    marks = [f"{_mark(chunk, num_chunks)} chunk {chunk}" for chunk in range(1, num_chunks)]
    return "   ".join([*map(meaning, kinds_of([timeline])), *marks, ". idle"])

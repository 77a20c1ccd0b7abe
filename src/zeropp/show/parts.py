"""What all forms of a timeline share: the words and figures of its caption, and each rank's rows.

compute       F B W BW               one row
collectives   UNSHARD RESHARD REDUCE as few rows as hold them without overlap
p2p           SEND_* RECV_*          as few rows as hold them without overlap
"""

from collections.abc import Iterable, Iterator
from operator import attrgetter
from typing import Literal, NamedTuple

from zeropp.ir.action import COMPUTE, SHARDING, Kind
from zeropp.ir.timeline import Span, Timeline

Lane = Literal["compute", "collectives", "p2p"]


def number(value: float) -> str:
    """Four significant digits, all digits of larger whole parts, no trailing zeros."""
    return f"{value:.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def figures(timeline: Timeline) -> tuple[str, str, str]:
    """Sizes (such as `P=4 V=2 B=8`), the makespan with its unit, the bubble ratio defined."""
    microbatches = {s.action.microbatch for spans in timeline.spans for s in spans} - {None}
    placement = timeline.placement
    return (
        f"P={placement.pp_size} V={placement.num_chunks} B={len(microbatches)}",
        f"makespan {number(timeline.makespan)} {timeline.unit}",
        f"bubble ratio {100 * timeline.bubble_ratio:.1f} % = idle / (P x makespan)",
    )


def kinds_of(timelines: Iterable[Timeline]) -> list[Kind]:
    """The kinds of what takes time, in the order of all kinds."""
    spans = (span for timeline in timelines for rank in timeline.spans for span in rank)
    present = {span.action.kind for span in spans if span.end > span.start}
    return [kind for kind in Kind if kind in present]


def start_of(timeline: Timeline) -> float:
    """The first start over all ranks, in the timeline's unit: time 0 of whatever is drawn."""
    if timeline.makespan <= 0:
        title = timeline.title
        raise ValueError(f"timeline {title!r} has no span that takes time; nothing to draw")
    return min(span.start for spans in timeline.spans for span in spans)


class Row(NamedTuple):
    """Spans of one rank that do not overlap."""

    rank: int
    lane: Lane
    spans: list[Span]


def rows_of(timeline: Timeline) -> Iterator[Row]:
    """Rank by rank; collectives and messages that take no time have no row."""
    for rank, spans in enumerate(timeline.spans):
        yield Row(rank, "compute", [span for span in spans if span.action.kind in COMPUTE])
        others = [s for s in spans if s.action.kind not in COMPUTE and s.end > s.start]
        collectives = [span for span in others if span.action.kind in SHARDING]
        p2p = [span for span in others if span.action.kind not in SHARDING]
        yield from (Row(rank, "collectives", row) for row in _packed(collectives))
        yield from (Row(rank, "p2p", row) for row in _packed(p2p))


def _packed(spans: Iterable[Span]) -> list[list[Span]]:
    """Each span in the first row in which it overlaps nothing."""
    rows: list[list[Span]] = []
    for span in sorted(spans, key=attrgetter("start", "end")):
        row = next((row for row in rows if row[-1].end <= span.start), None)
        if row is None:
            rows.append([span])
        else:
            row.append(span)
    return rows

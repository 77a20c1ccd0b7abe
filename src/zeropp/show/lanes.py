"""Lanes: a rank's spans parted into compute, collectives and point-to-point, for rows of their own.

compute       F B W BW               one row
collectives   UNSHARD RESHARD REDUCE as few rows as hold them without overlap
p2p           SEND_* RECV_*          as few rows as hold them without overlap
"""

from collections.abc import Iterable
from operator import attrgetter
from typing import NamedTuple

from zeropp.ir.action import COMPUTE, SHARDING
from zeropp.ir.timeline import Span, Timeline

Row = tuple[Span, ...]


class Lanes(NamedTuple):
    """One rank's spans by where they are drawn."""

    compute: Row
    collectives: tuple[Row, ...]
    p2p: tuple[Row, ...]


def lanes_of(spans: Iterable[Span]) -> Lanes:
    """Part one rank's spans; collectives and messages that take no time have no lane."""
    spans = tuple(spans)
    compute = tuple(span for span in spans if span.action.kind in COMPUTE)
    others = [s for s in spans if s.action.kind not in COMPUTE and s.end > s.start]
    collectives = (span for span in others if span.action.kind in SHARDING)
    p2p = (span for span in others if span.action.kind not in SHARDING)
    return Lanes(compute, _packed(collectives), _packed(p2p))


def _packed(spans: Iterable[Span]) -> tuple[Row, ...]:
    """Each span in the first row in which it overlaps nothing."""
    rows: list[list[Span]] = []
    for span in sorted(spans, key=attrgetter("start", "end")):
        for row in rows:
            if row[-1].end <= span.start:
                row.append(span)
                break
        else:
            rows.append([span])
    return tuple(map(tuple, rows))


def start_of(timeline: Timeline) -> float:
    """The first start over all ranks, in the timeline's unit: time 0 of whatever is drawn.

    Raises:
        ValueError: no span, or none that takes time.
    """
    if timeline.makespan <= 0:
        title = timeline.title
        raise ValueError(f"timeline {title!r} has no span that takes time; nothing to draw")
    return min(span.start for spans in timeline.spans for span in spans)

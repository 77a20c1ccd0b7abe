"""Lanes: a rank's spans parted into compute, collectives and point-to-point, for side-by-side rows.

compute       F B W BW               one row
collectives   UNSHARD RESHARD REDUCE as few rows as hold them without overlap
p2p           SEND_* RECV_*          as few rows as hold them without overlap

Collectives and messages that take no time have no lane.
"""

from collections.abc import Iterable
from typing import NamedTuple

from zeropp.ir.action import COMPUTE, SHARDING
from zeropp.ir.timeline import Span, Timeline

Rows = tuple[tuple[Span, ...], ...]


class Lanes(NamedTuple):
    """One rank's spans by where they are drawn."""

    compute: tuple[Span, ...]
    collectives: Rows
    p2p: Rows


def lanes_of(spans: Iterable[Span]) -> Lanes:
    """Part one rank's spans."""
    compute: list[Span] = []
    collectives: list[Span] = []
    p2p: list[Span] = []
    for span in spans:
        kind = span.action.kind
        if kind in COMPUTE:
            compute.append(span)
        elif span.end > span.start:
            (collectives if kind in SHARDING else p2p).append(span)
    return Lanes(tuple(compute), pack(collectives), pack(p2p))


def pack(spans: Iterable[Span]) -> Rows:
    """Spread spans over rows, each into the first row in which it overlaps nothing."""
    rows: list[list[Span]] = []
    for span in sorted(spans, key=lambda span: (span.start, span.end)):
        free = (row for row in rows if row[-1].end <= span.start)
        row = next(free, None)
        if row is None:
            rows.append([span])
        else:
            row.append(span)
    return tuple(map(tuple, rows))


def start_of(timeline: Timeline) -> float:
    """The first start over all ranks, in the timeline's unit: time 0 of whatever is drawn.

    Raises:
        ValueError: no span, or none that takes time.
    """
    if timeline.makespan <= 0:
        raise ValueError(
            f"timeline {timeline.title!r} has no span that takes time; nothing to draw"
        )
    return min(span.start for spans in timeline.spans for span in spans)

"""A simulated schedule as plain data: what a page draws, without a rule of its own.

A span is [position, kind, stage, micro-batch, start, end]: the position in its rank's program, by
which `explain` goes, and -1 for the micro-batch of a collective. Moves go by the place among the
compute actions, in which their row is in order.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from zeropp.explore.critical import Chains, Place
from zeropp.ir import Kind, Placement, Span, Timeline
from zeropp.program.verifier import Violation
from zeropp.scenario import held, rows_of
from zeropp.show.palette import (
    HELD,
    HELD_EDGE,
    IDLE,
    INK,
    QUIET,
    WHITE,
    Colour,
    ink_on,
    meaning,
    shade,
)
from zeropp.show.parts import figures
from zeropp.show.parts import rows_of as lanes_of
from zeropp.simulate import Report

Data = dict[str, Any]


def panel_of(report: Report, chains: Chains, fits: bool) -> Data:
    """Of one report."""
    places = {(place.rank, span): place for place, span in chains.spans.items()}
    trains = report.program.schedule.trains
    return {
        **_drawn(report.timeline, places),
        "figures": report.as_dict(),
        "rows": rows_of(report),
        "makespan": report.makespan,
        "floor": report.floor if trains else None,
        "memory": held(report) if trains else [],
        "idle": [{str(cause): time for cause, time in rank.items()} for rank in report.run.idle],
        "critical": chains.critical(),
        "fits": fits,
    }


def spoilt(timeline: Timeline, violations: Iterable[Violation]) -> Data:
    """Of an order that breaks a rule, with the places that do."""
    found = list(violations)
    places = {
        (rank, span): Place(rank, position)
        for rank, spans in enumerate(timeline.spans)
        for position, span in enumerate(spans)
    }
    drawn = _drawn(timeline, places)
    return {
        **drawn,
        "caption": [drawn["caption"][0], "not sound: in order, without gaps"],
        "makespan": timeline.makespan,
        "unsound": [str(violation) for violation in found[:3]],
        "wrong": [[v.rank, v.position] for v in found if v.position is not None],
    }


def _drawn(timeline: Timeline, places: Mapping[tuple[int, Span], Place]) -> Data:
    ranks: list[dict[str, list[Any]]] = [
        {"compute": [], "collectives": [], "p2p": []} for _ in timeline.spans
    ]
    for row in lanes_of(timeline):
        drawn = [_span(places[row.rank, span].position, span) for span in row.spans]
        ranks[row.rank][row.lane].append(drawn)
    return {
        "name": timeline.title,
        "caption": figures(timeline),
        "chunks": [timeline.placement.chunk_of(s) for s in range(timeline.placement.num_stages)],
        "colours": colours(timeline.placement),
        "ranks": ranks,
    }


def _span(position: int, span: Span) -> list[Any]:
    action = span.action
    m = -1 if action.microbatch is None else action.microbatch
    return [position, action.kind, action.stage, m, span.start, span.end]


def colours(placement: Placement) -> dict[Kind, list[tuple[str, str]]]:
    """For each kind and chunk, the colour of its boxes and that of letters on it."""
    chunks = range(placement.num_chunks)
    return {
        kind: [(web(c), web(ink_on(c))) for c in (shade(kind, v, len(chunks)) for v in chunks)]
        for kind in Kind
    }


def web(colour: Colour) -> str:
    """As pages write it, such as #1f5fae."""
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour)


def look() -> Data:
    """Letters of kinds and the colours of all that is no action."""
    others = {"idle": IDLE, "ink": INK, "quiet": QUIET, "white": WHITE}
    others |= {"held": HELD, "held_edge": HELD_EDGE}
    return {
        "letters": {kind: meaning(kind).partition(" ")[::2] for kind in Kind},
        "colours": {name: web(colour) for name, colour in others.items()},
    }

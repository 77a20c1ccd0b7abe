"""Captions: the words and figures that all forms share, such as those above a drawn timeline."""

from collections.abc import Iterable, Mapping

from zeropp.ir.action import Kind
from zeropp.ir.timeline import Timeline

MEANING: Mapping[Kind, str] = {  # its letters in text, and its name
    Kind.F: "F forward",
    Kind.B: "B input gradient",
    Kind.W: "W weight gradient",
    Kind.BW: "BW fused backward",
    Kind.UNSHARD: "U unshard",
    Kind.RESHARD: "X reshard",
    Kind.REDUCE: "R reduce",
    Kind.SEND_F: ">F send",
    Kind.SEND_B: ">B send",
    Kind.RECV_F: "<F receive",
    Kind.RECV_B: "<B receive",
}


def number(value: float) -> str:
    """Four significant digits, all digits of larger whole parts, no trailing zeros."""
    return f"{value:.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def sizes(timeline: Timeline) -> str:
    """P, V and B, such as `P=4 V=2 B=8`."""
    microbatches = {s.action.microbatch for spans in timeline.spans for s in spans} - {None}
    placement = timeline.placement
    return f"P={placement.pp_size} V={placement.num_chunks} B={len(microbatches)}"


def makespan(timeline: Timeline) -> str:
    """The makespan with its unit, such as `makespan 99.5 f`."""
    return f"makespan {number(timeline.makespan)} {timeline.unit}"


def bubble_ratio(timeline: Timeline) -> str:
    """The bubble ratio with its definition."""
    return f"bubble ratio {100 * timeline.bubble_ratio:.1f} % = idle / (P x makespan)"


def kinds_of(timelines: Iterable[Timeline]) -> list[Kind]:
    """The kinds of what takes time, in the order of all kinds."""
    spans = (span for timeline in timelines for rank in timeline.spans for span in rank)
    present = {span.action.kind for span in spans if span.end > span.start}
    return [kind for kind in Kind if kind in present]

"""Captions: the sizes and the two figures that stand above every drawn timeline."""

from zeropp.ir.timeline import Timeline


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

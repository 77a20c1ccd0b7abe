"""Floor 0: what schedules, programs and timelines are."""

from zeropp.ir.action import Action, Kind
from zeropp.ir.evaluate import DeadlockError, evaluate
from zeropp.ir.placement import Placement, Shape
from zeropp.ir.program import Program
from zeropp.ir.schedule import Schedule, peak_slots_per_rank
from zeropp.ir.text import format_program, format_schedule, parse
from zeropp.ir.timeline import Span, Timeline

__all__ = [
    "Action",
    "DeadlockError",
    "Kind",
    "Placement",
    "Program",
    "Schedule",
    "Shape",
    "Span",
    "Timeline",
    "evaluate",
    "format_program",
    "format_schedule",
    "parse",
    "peak_slots_per_rank",
]

"""Floor 0: what schedules, programs and timelines are."""

from zeropp.ir.action import Action, Kind
from zeropp.ir.order import Order
from zeropp.ir.placement import Placement, Shape, stage_blocks
from zeropp.ir.program import Program, Recompute
from zeropp.ir.schedule import Schedule
from zeropp.ir.slots import peak_slots_per_rank
from zeropp.ir.text import format_program, format_schedule, parse, read_file
from zeropp.ir.timeline import Span, Timeline, evaluate
from zeropp.ir.walk import DeadlockError

__all__ = [
    "Action",
    "DeadlockError",
    "Kind",
    "Order",
    "Placement",
    "Program",
    "Recompute",
    "Schedule",
    "Shape",
    "Span",
    "Timeline",
    "evaluate",
    "format_program",
    "format_schedule",
    "parse",
    "peak_slots_per_rank",
    "read_file",
    "stage_blocks",
]

"""Floor 3: a program in simulated time, with communication and memory."""

from zeropp.ir.timeline import Cause
from zeropp.simulate.engine import Run
from zeropp.simulate.memory import Category, Memory
from zeropp.simulate.report import Report, simulate

__all__ = ["Category", "Cause", "Memory", "Report", "Run", "simulate"]

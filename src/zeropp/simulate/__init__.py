"""Floor 3: a program in simulated time, with communication and memory."""

from zeropp.simulate.engine import Cause, Run
from zeropp.simulate.memory import Category, Memory
from zeropp.simulate.report import Report, simulate

__all__ = ["Category", "Cause", "Memory", "Report", "Run", "simulate"]

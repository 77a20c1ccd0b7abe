"""A program in simulated time, with communication and memory."""

from zeropp.ir.cause import Cause
from zeropp.simulate.engine import Run
from zeropp.simulate.report import Category, Memory, Report, simulate

__all__ = ["Category", "Cause", "Memory", "Report", "Run", "simulate"]

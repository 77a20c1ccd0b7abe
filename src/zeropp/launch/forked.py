"""What ranks have when they are forked: loaded once, by a process that runs nothing."""

from zeropp.ir.collector import loading

with loading():
    import zeropp.runtime  # noqa: F401

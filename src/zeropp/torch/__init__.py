"""Our orders and our split in `torch.distributed.pipelining`; what is text needs no torch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zeropp.torch.schedule import ScheduleZeroPP


def __getattr__(name: str) -> Any:
    if name != "ScheduleZeroPP":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from zeropp.torch.schedule import ScheduleZeroPP

    return ScheduleZeroPP


__all__ = ["ScheduleZeroPP"]

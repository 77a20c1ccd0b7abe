"""No rank holds more activations than the stated limit."""

from collections.abc import Iterator

from zeropp.ir.schedule import Schedule, peak_slots_per_rank
from zeropp.program.violation import Violation


def slots(schedule: Schedule, limit: int | None) -> Iterator[Violation]:
    """Report ranks whose peak exceeds `limit` slots; None: no limit."""
    if limit is None:
        return
    for rank, peak in enumerate(peak_slots_per_rank(schedule)):
        if peak > limit:
            yield Violation("slots", f"holds {peak} slots, above the limit of {limit}", rank)

"""What may be asked of a schedule or program beside the rules: room in memory, a split backward."""

from zeropp.ir.program import Program
from zeropp.ir.schedule import Schedule
from zeropp.ir.slots import peak_slots_per_rank
from zeropp.program.verifier import Violation, verify


def verify_within(subject: Schedule | Program, slots: int | None) -> tuple[Violation, ...]:
    """All violations; of what is sound, also the ranks that hold more activations than `slots`, one
    chunk of one micro-batch each; None: any number.
    """
    found = verify(subject)
    if found or slots is None:
        return found
    schedule = subject if isinstance(subject, Schedule) else subject.schedule
    return tuple(
        Violation("slots", f"holds {peak} slots, above the limit of {slots}", rank)
        for rank, peak in enumerate(peak_slots_per_rank(schedule))
        if peak > slots
    )


def require_split(schedule: Schedule, what: str) -> None:
    """Raise ValueError, naming `what`, which can do nothing where backwards are fused."""
    if schedule.fused:
        raise ValueError(
            f"{what} needs a schedule that splits B from W, such as zeropp or zb-v; "
            f"got {schedule.name!r}"
        )

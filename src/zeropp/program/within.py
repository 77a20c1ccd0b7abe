"""A limit of memory that a schedule or a program may be held against, beside the rules."""

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

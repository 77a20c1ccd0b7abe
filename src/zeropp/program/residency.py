"""Compute finds its stage's parameters gathered, and no rank gathers more than the limit."""

from collections.abc import Iterator

from zeropp.ir.action import NEEDS_PARAMETERS, Kind
from zeropp.ir.program import Program
from zeropp.program.violation import Violation, at


def residency(program: Program, limit: int | None = None) -> Iterator[Violation]:
    """Report F, B and BW on a stage that is not gathered, and gathers beyond the limit.

    The limit is `limit`, or the program's own `max_resident`.
    """
    if program.shard is None:
        return
    most = limit if limit is not None else program.max_resident
    for rank, order in enumerate(program.actions):
        resident: set[int] = set()
        for position, action in enumerate(order):
            if action.kind is Kind.UNSHARD:
                resident.add(action.stage)
                if most is not None and len(resident) > most:
                    message = f"makes {len(resident)} stages resident, above the limit of {most}"
                    yield at("residency", rank, position, order, message)
            elif action.kind is Kind.RESHARD:
                resident.discard(action.stage)
            elif action.kind in NEEDS_PARAMETERS and action.stage not in resident:
                yield at("residency", rank, position, order, "runs while its stage is not gathered")

"""Nothing is gathered or reduced twice without need, and every gradient is reduced."""

from collections.abc import Iterator

from zeropp.ir.action import NEEDS_PARAMETERS, WEIGHT, Action, Kind
from zeropp.ir.program import Program
from zeropp.program.violation import Violation, at


def economy(program: Program) -> Iterator[Violation]:
    """Report collectives without effect, and weight gradients that no REDUCE collects."""
    for rank, order in enumerate(program.actions):
        if program.shard is None:
            yield from _unexpected(rank, order)
        else:
            yield from _gathers(rank, order)
            yield from _reduces(rank, order)


def _unexpected(rank: int, order: tuple[Action, ...]) -> Iterator[Violation]:
    for position, action in enumerate(order):
        if action.kind in (Kind.UNSHARD, Kind.RESHARD, Kind.REDUCE):
            yield at("economy", rank, position, order, "in a program that is not sharded")


def _gathers(rank: int, order: tuple[Action, ...]) -> Iterator[Violation]:
    used: dict[int, bool] = {}  # resident stage -> whether anything used it
    for position, action in enumerate(order):
        kind, stage, _ = action
        if kind is Kind.UNSHARD:
            if stage in used:
                yield at("economy", rank, position, order, "gathers a stage that is gathered")
            used[stage] = False
        elif kind is Kind.RESHARD:
            if stage not in used:
                yield at("economy", rank, position, order, "frees a stage that is not gathered")
            elif not used[stage]:
                yield at("economy", rank, position, order, "frees a stage that nothing used")
            used.pop(stage, None)
        elif kind in NEEDS_PARAMETERS and stage in used:
            used[stage] = True
    for stage in used:
        yield Violation("economy", f"stage {stage} is never freed", rank)


def _reduces(rank: int, order: tuple[Action, ...]) -> Iterator[Violation]:
    pending: dict[int, int] = {}  # stage -> position of its latest weight gradient
    for position, action in enumerate(order):
        if action.kind in WEIGHT:
            pending[action.stage] = position
        elif action.kind is Kind.REDUCE and pending.pop(action.stage, None) is None:
            yield at("economy", rank, position, order, "reduces no new gradient")
    for position in sorted(pending.values()):
        yield at("economy", rank, position, order, "makes a gradient that is never reduced")

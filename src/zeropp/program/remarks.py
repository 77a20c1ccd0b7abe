"""Warnings: what a sound program does without need, or where it hangs that is run otherwise."""

from collections.abc import Iterator, Sequence

from zeropp.ir.action import NEEDS_PARAMETERS, WEIGHT, Action, Kind
from zeropp.ir.links import Links
from zeropp.ir.precedence import sends_first
from zeropp.ir.program import Program
from zeropp.ir.walk import run_in_order
from zeropp.program.verifier import Finding, Violation


def warnings(program: Program) -> tuple[Violation, ...]:
    """Of a program that `verify` finds sound."""
    found = [*_economy(program), *_rendezvous(program)]
    return tuple(Violation.of(program.actions, finding) for finding in found)


def _economy(program: Program) -> Iterator[Finding]:
    """Nothing is gathered, freed or reduced without need."""
    for rank, order in enumerate(program.actions):
        yield from _gathers(rank, order)
        yield from _reduces(rank, order)


def _gathers(rank: int, order: Sequence[Action]) -> Iterator[Finding]:
    used: dict[int, bool] = {}  # resident stage -> whether anything used it
    for position, (kind, stage, _) in enumerate(order):
        if kind is Kind.UNSHARD:
            if stage in used:
                yield "economy", rank, position, "gathers a stage that is gathered"
            used[stage] = False
        elif kind is Kind.RESHARD:
            if stage not in used:
                yield "economy", rank, position, "frees a stage that is not gathered"
            elif not used[stage]:
                yield "economy", rank, position, "frees a stage that nothing used"
            used.pop(stage, None)
        elif kind in NEEDS_PARAMETERS and stage in used:
            used[stage] = True


def _reduces(rank: int, order: Sequence[Action]) -> Iterator[Finding]:
    summed: set[int] = set()  # stages with a gradient since their latest REDUCE
    for position, (kind, stage, _) in enumerate(order):
        if kind in WEIGHT:
            summed.add(stage)
        elif kind is Kind.REDUCE:
            if stage not in summed:
                yield "economy", rank, position, "reduces no new gradient"
            summed.discard(stage)


def _rendezvous(program: Program) -> Iterator[Finding]:
    """No rank blocks for ever if every SEND blocks until its RECV is posted and, at once, every
    RECV holds its rank until its message is sent: each of a pair waits until both are reached.
    """
    links = program.links
    half, messages = links.receives - links.sends, range(links.sends, links.sharding)
    # a message's number is that it is reached; plus `end`, that the other one is as well
    orders = [
        [n for at in sends_first(actions) for n in _met(links, order[at])]
        for actions, order in zip(program.actions, program.numbers, strict=True)
    ]
    others = [n + half if n < links.receives else n - half for n in messages]
    awaits = [-1] * (links.end + links.sends) + others
    for rank, at, awaited in run_in_order(orders, awaits)[1][:1]:
        stands = links.action(orders[rank][at] - links.end)
        position = program.actions[rank].index(stands)
        yield (
            "rendezvous",
            rank,
            position,
            f"waits for ever for {links.action(awaited)} where sends block and receives hold at "
            "once, as with CUDA_LAUNCH_BLOCKING=1",
        )


def _met(links: Links, number: int) -> tuple[int, ...]:
    return (number, links.end + number) if links.sends <= number < links.sharding else (number,)

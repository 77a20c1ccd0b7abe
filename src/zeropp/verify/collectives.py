"""The members of a shard group run the same collectives in the same order."""

from collections.abc import Iterator, Sequence

from zeropp.ir.action import Action, Kind
from zeropp.verify.violation import Violation, at


def same_collectives(orders: Sequence[Sequence[Action]]) -> Iterator[Violation]:
    """Report the members whose UNSHARD and REDUCE sequence differs from the first member's.

    Args:
        orders: for each member of one shard group, the actions it is about to run.
    """
    reference = _collectives(orders[0])
    for member, order in enumerate(orders):
        own = _collectives(order)
        for index in range(max(len(own), len(reference))):
            expected = reference[index][1] if index < len(reference) else None
            position, action = own[index] if index < len(own) else (len(order) - 1, None)
            if action != expected:
                message = (
                    f"is where member {member} of the group runs collective {index} as "
                    f"{action or 'nothing'}, member 0 as {expected or 'nothing'}"
                )
                yield at("collectives", member, position, order, message)
                break


def _collectives(order: Sequence[Action]) -> list[tuple[int, Action]]:
    kinds = (Kind.UNSHARD, Kind.REDUCE)
    return [(position, action) for position, action in enumerate(order) if action.kind in kinds]

"""Rules on the compute order, of which every other action of a program speaks."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

from zeropp.ir.action import Action, Kind
from zeropp.ir.earliest import DeadlockError, evaluate
from zeropp.ir.precedence import predecessors
from zeropp.ir.schedule import Schedule, peak_slots_per_rank

# The rule that is broken; on which rank and at which position of its order, None where there is
# none; and what is wrong, in words that follow the action at this position.
Finding = tuple[str, int | None, int | None, str]

_KINDS = (Kind.F, Kind.B, Kind.W, Kind.BW)
_WHOLE = ((1, 1, 0), (0, 0, 1))  # split, fused


def complete(schedule: Schedule) -> Iterator[Finding]:
    """Every stage runs every F, and its B and W or its BW, exactly once, on its rank."""
    yield from _misplaced(schedule)
    count = Counter(chain.from_iterable(schedule.actions))
    for stage, rank in enumerate(schedule.placement.ranks):
        for m in range(schedule.num_microbatches):
            actions = [Action(kind, stage, m) for kind in _KINDS]
            forward, *backward = (count[action] for action in actions)
            if forward != 1:
                ran = f"{stage}F{m} runs {forward} times, not once"
                yield _where(schedule, rank, actions, ran)
            if schedule.trains and tuple(backward) not in _WHOLE:
                ran = ", ".join(f"{k} {n} times" for k, n in zip(_KINDS[1:], backward, strict=True))
                ran = f"stage {stage} microbatch {m} runs {ran}; expected B and W once, or BW once"
                yield _where(schedule, rank, actions, ran)


def _where(schedule: Schedule, rank: int, actions: Sequence[Action], ran: str) -> Finding:
    """What is wrong with a stage's micro-batch, at the last of its actions that are there."""
    order = schedule.actions[rank]
    there = [position for position, action in enumerate(order) if action in actions]
    return (
        ("complete", rank, there[-1], f"is there, and {ran}")
        if there
        else ("complete", rank, None, ran)
    )


def _misplaced(schedule: Schedule) -> Iterator[Finding]:
    ranks = schedule.placement.ranks
    for rank, order in enumerate(schedule.actions):
        for position, (_, stage, m) in enumerate(order):
            if stage >= len(ranks):
                yield "complete", rank, position, "names a stage that does not exist"
            elif ranks[stage] != rank:
                yield "complete", rank, position, f"belongs on rank {ranks[stage]}"
            elif m is None or m >= schedule.num_microbatches:
                yield "complete", rank, position, "names no micro-batch of the batch"


def precedence(schedule: Schedule) -> Iterator[Finding]:
    """No compute action comes before a predecessor that runs on the same rank."""
    ranks = schedule.placement.ranks

    def needs(action: Action) -> list[Action]:
        rank = ranks[action.stage]
        return [needed for needed in predecessors(action, schedule) if ranks[needed.stage] == rank]

    return in_order(schedule.actions, needs)


def in_order(
    orders: Sequence[Sequence[Action]], needs: Callable[[Action], Iterable[Action]]
) -> Iterator[Finding]:
    """On its own rank, an action comes after all that it `needs`."""
    for rank, order in enumerate(orders):
        done: set[Action] = set()
        for position, action in enumerate(order):
            for needed in needs(action):
                if needed not in done:
                    yield "precedence", rank, position, f"comes before {needed}, which it needs"
            done.add(action)


def slots(schedule: Schedule, limit: int | None) -> Iterator[Finding]:
    """No rank holds more activations than `limit` slots; None: no limit."""
    for rank, peak in enumerate(peak_slots_per_rank(schedule)):
        if limit is not None and peak > limit:
            yield "slots", rank, None, f"holds {peak} slots, above the limit of {limit}"


def compute_deadlock(schedule: Schedule) -> Iterator[Finding]:
    """The ranks' compute orders do not contradict each other."""
    try:
        evaluate(schedule, lambda action: 1.0)
    except DeadlockError as error:
        yield "deadlock", None, None, str(error)

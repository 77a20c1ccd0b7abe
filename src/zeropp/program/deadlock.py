"""No deadlock, even if every SEND blocks until its RECV is posted."""

from collections.abc import Iterator

from zeropp.ir.action import COMPUTE, SENDS, Action
from zeropp.ir.evaluate import DeadlockError, evaluate, run_in_order
from zeropp.ir.precedence import incoming, matching_receive, matching_send
from zeropp.ir.program import Program
from zeropp.ir.schedule import Schedule
from zeropp.program.violation import Violation, at


def compute_deadlock(schedule: Schedule) -> Iterator[Violation]:
    """Report ranks whose compute orders contradict each other."""
    try:
        evaluate(schedule, lambda action: 1.0)
    except DeadlockError as error:
        yield Violation("deadlock", str(error))


def rendezvous_deadlock(program: Program) -> Iterator[Violation]:
    """Report ranks that block for ever when sends are synchronous.

    Channels are in order at both ends by the rule `channels`, so a SEND waits for its own RECV.
    """
    done: set[Action] = set()

    def attempt(rank: int, action: Action) -> Action | None:
        awaited = None
        if action.kind in SENDS:
            awaited = matching_receive(action)
        elif action.kind in COMPUTE and (receive := incoming(action, program.placement)):
            awaited = matching_send(receive)
        if awaited is not None and awaited not in done:
            return awaited
        done.add(action)
        return None

    for blocked in run_in_order(program.actions, attempt):
        order = program.actions[blocked.rank]
        message = f"waits for ever for {blocked.awaits}"
        yield at("deadlock", blocked.rank, blocked.position, order, message)

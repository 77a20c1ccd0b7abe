"""Pure passes from a schedule to the program that ranks execute."""

from dataclasses import replace

from zeropp.ir.action import SHARDING
from zeropp.ir.collector import collector_paused
from zeropp.ir.program import Program
from zeropp.ir.schedule import Schedule
from zeropp.program.collectives import shard
from zeropp.program.messages import p2p


@collector_paused
def lower(
    schedule: Schedule,
    shard_policy: str | None = None,
    *,
    max_resident: int = 2,
    prefetch: int = 1,
    recv_ahead: int = 1,
) -> Program:
    """Collectives (none if `shard_policy` is None), then point-to-point.

    Raises:
        ValueError: a knob out of range, or a schedule whose orders deadlock.
    """
    if shard_policy is None:
        program = Program(schedule, schedule.actions)
    else:
        program = shard(schedule, shard_policy, max_resident, prefetch)
    return p2p(program, recv_ahead)


def without_collectives(program: Program) -> Program:
    """The program for ranks on which nothing is sharded: its collectives would do nothing."""
    if program.shard is None:
        return program
    actions = tuple(
        tuple(action for action in order if action.kind not in SHARDING)
        for order in program.actions
    )
    return replace(program, actions=actions, shard=None, max_resident=None)

"""From a schedule to the program that ranks execute: collectives, then messages."""

from dataclasses import replace

from zeropp.ir.action import SHARDING, Action, Kind, collector_paused
from zeropp.ir.placement import Placement
from zeropp.ir.program import Program
from zeropp.ir.schedule import Schedule
from zeropp.program.collectives import shard
from zeropp.program.messages import p2p
from zeropp.program.verifier import require_valid


@collector_paused()
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
    actions = tuple(tuple(a for a in order if a.kind not in SHARDING) for order in program.actions)
    return replace(program, actions=actions, shard=None, max_resident=None)


def forward_only(placement: Placement, num_microbatches: int) -> Schedule:
    """What evaluation and generation of text run: each chunk's micro-batches before the next's.

    So each stage is gathered once.

    Raises:
        ValueError: no micro-batch.
    """
    actions = tuple(
        tuple(
            Action(Kind.F, s, m) for s in placement.stages_of(rank) for m in range(num_microbatches)
        )
        for rank in range(placement.pp_size)
    )
    return Schedule("forward-only", placement, (num_microbatches,), actions)


def forward_only_program(like: Program, num_microbatches: int) -> Program:
    """The verified program of `forward_only`, placed and sharded as `like` is.

    Raises:
        ValueError: no micro-batch.
    """
    placement = like.placement
    schedule = forward_only(placement, num_microbatches)
    resident = like.max_resident or placement.num_chunks
    return require_valid(lower(schedule, like.shard, max_resident=resident))

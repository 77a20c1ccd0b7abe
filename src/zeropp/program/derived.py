"""Programs that are made of another while it runs: one that evaluates, one without collectives."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from operator import attrgetter

from zeropp.ir.action import SHARDING, Action, Kind
from zeropp.ir.placement import Placement
from zeropp.ir.program import Program
from zeropp.ir.schedule import Schedule
from zeropp.program.messages import with_messages
from zeropp.program.verifier import require_valid


def without_collectives(program: Program) -> Program:
    """The program for ranks on which nothing is sharded: its collectives would do nothing."""
    if program.shard is None:
        return program
    actions = tuple(tuple(a for a in order if a.kind not in SHARDING) for order in program.actions)
    return replace(program, actions=actions, shard=None, max_resident=None)


def forward_only(placement: Placement, num_microbatches: int) -> Schedule:
    """Each chunk's micro-batches before the next's, so that each stage is gathered once."""
    batch = range(num_microbatches)
    actions = tuple(
        tuple(Action(Kind.F, stage, m) for stage in placement.stages_of(rank) for m in batch)
        for rank in range(placement.pp_size)
    )
    return Schedule("forward-only", placement, (num_microbatches,), actions)


def forward_only_program(like: Program, num_microbatches: int) -> Program:
    """The verified program of `forward_only`, placed as `like` is; where that is sharded, each
    stage is gathered once, and as many are gathered at a time.
    """
    schedule = forward_only(like.placement, num_microbatches)
    resident = like.max_resident or like.placement.num_chunks
    orders = (_gathered(order, resident) if like.shard else order for order in schedule.actions)
    limit = resident if like.shard else None
    made = Program(schedule, tuple(map(tuple, orders)), like.shard, limit)
    return require_valid(with_messages(made))


def _gathered(order: Sequence[Action], resident: int) -> Iterator[Action]:
    """With gathers as early as there is room for."""
    stages = [stage for stage, _ in groupby(action.stage for action in order)]
    yield from (Action(Kind.UNSHARD, stage) for stage in stages[:resident])
    for stage, own in groupby(order, attrgetter("stage")):
        yield from own
        yield Action(Kind.RESHARD, stage)
        yield from (Action(Kind.UNSHARD, stage) for stage in stages[resident : resident + 1])
        resident += 1

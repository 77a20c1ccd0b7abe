"""A program is a schedule lowered for a machine: compute, collectives and point-to-point."""

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from zeropp.ir.action import COMPUTE, Action, Kind
from zeropp.ir.links import Links, Numbers
from zeropp.ir.placement import Placement
from zeropp.ir.schedule import Schedule
from zeropp.ir.walk import Walked, run_in_order


class Policy(StrEnum):
    """How often parameters are gathered and gradients reduced."""

    UNIT = "unit"
    STEP = "step"
    MICROBATCH = "microbatch"


class Recompute(StrEnum):
    """What of a block is run again in its B (activation checkpointing).

    `none`: nothing; `selective`: all but matrix products and attention; `full`: the whole block.
    """

    NONE = "none"
    SELECTIVE = "selective"
    FULL = "full"


@dataclass(frozen=True)
class Program:
    """What every rank executes, action by action; the only thing the executor accepts.

    Attributes:
        schedule: the compute order that was lowered.
        actions: for each rank, all its actions in order.
        shard: the policy by which UNSHARD, RESHARD and REDUCE were inserted; None without them.
        max_resident: most stages of a rank whose parameters are gathered at once; None: no limit.
        split: number of blocks in each stage; None: whoever runs it decides.
        recompute: what of a block is run again in its B; None: likewise.

    Raises:
        ValueError: the compute actions are not the schedule's, or the policy or a size is none.
    """

    schedule: Schedule
    actions: tuple[tuple[Action, ...], ...]
    shard: str | None = None
    max_resident: int | None = None
    split: tuple[int, ...] | None = None
    recompute: Recompute | None = None

    def __post_init__(self) -> None:
        for rank, order in enumerate(self.schedule.actions):
            if tuple([a for a in self.actions[rank] if a[0] in COMPUTE]) != order:
                raise ValueError(
                    f"rank {rank}: the program's compute actions are not its schedule's"
                )
        if self.shard not in (None, *Policy):
            raise ValueError(f"shard must be one of {', '.join(Policy)}, got {self.shard!r}")
        if self.max_resident is not None and self.max_resident < 1:
            raise ValueError(f"max_resident must be at least 1, got {self.max_resident}")
        stages = self.placement.num_stages
        if self.split is not None and (len(self.split) != stages or min(self.split) < 1):
            raise ValueError(f"split must list {stages} positive sizes, got {list(self.split)}")

    @property
    def placement(self) -> Placement:
        """Stage -> rank."""
        return self.schedule.placement

    @cached_property
    def links(self) -> Links:
        """Of its schedule; shared by all that walk it."""
        return Links(self.schedule)

    @cached_property
    def numbers(self) -> Numbers:
        """Its actions by their numbers, where each exists."""
        return list(map(self.links.numbers, self.actions))

    @cached_property
    def walked(self) -> Walked:
        """Its orders run side by side, where every SEND blocks until its RECV is posted."""
        return run_in_order(self.numbers, self.links.waits)

    def count(self, kind: Kind) -> tuple[int, ...]:
        """How many actions of `kind` each rank has."""
        return tuple(sum(a.kind is kind for a in order) for order in self.actions)

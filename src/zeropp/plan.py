"""A plan is everything that decides how a model is laid over ranks and in which order it runs."""

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

from zeropp.costs import Costs
from zeropp.generate import generate
from zeropp.ir.placement import Placement
from zeropp.ir.program import Program, Recompute
from zeropp.ir.schedule import Schedule
from zeropp.program.collectives import Policy
from zeropp.program.lowering import lower


@dataclass(frozen=True)
class Plan:
    """Sizes, schedule and sharding of one training step.

    Attributes:
        pp_size: P, ranks in a pipeline.
        num_chunks: V, stages per rank.
        num_microbatches: B, micro-batches per step and pipeline.
        schedule: name of the generator.
        unit_size: U; None: the schedule's default.
        seam: what happens between units; None: the schedule's default.
        dp_shard: ranks over which parameters, gradients and optimizer state are sharded.
        dp_replicate: copies of such a shard group (HSDP).
        shard: when parameters are gathered and gradients reduced: `unit`, `step`, `microbatch`.
        max_resident: for `unit`, most stages of a rank whose parameters are gathered at once.
        prefetch: how many compute actions before its first use a gather is issued.
        recv_ahead: at the latest how many compute actions before its use a receive is posted.
        split: number of blocks in each stage; None: nearly equal.
        slots: most activations (one chunk of one micro-batch each) that a rank holds, for schedules
            that have this knob or are refined; None: the schedule's default.
        refine: improve the schedule's order for `costs`, within the memory that it holds.
        recompute: what of a block is run again in its B: `none`, `selective` or `full`.
        costs: what the schedule is made for; None: equal stages and free P2P.

    Raises:
        ValueError: the field that is out of range, with what would fit.
    """

    pp_size: int = 1
    num_chunks: int = 1
    num_microbatches: int = 1
    schedule: str = "zeropp"
    unit_size: int | None = None
    seam: str | None = None
    dp_shard: int = 1
    dp_replicate: int = 1
    shard: str = "unit"
    max_resident: int = 2
    prefetch: int = 1
    recv_ahead: int = 1
    split: tuple[int, ...] | None = None
    slots: int | None = None
    refine: bool = False
    recompute: str = "none"
    costs: Costs | None = None

    def __post_init__(self) -> None:
        for name in ("dp_shard", "dp_replicate", "max_resident"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("prefetch", "recv_ahead"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.shard not in list(Policy):
            raise ValueError(f"shard must be one of {', '.join(Policy)}, got {self.shard!r}")
        if self.recompute not in list(Recompute):
            names = ", ".join(Recompute)
            raise ValueError(f"recompute must be one of {names}, got {self.recompute!r}")
        _ = self.compute  # refuses what the generator refuses

    @property
    def world_size(self) -> int:
        """P x D, D = dp_replicate x dp_shard."""
        return self.pp_size * self.dp_size

    @property
    def dp_size(self) -> int:
        """D, ranks that hold the same stages and see different data."""
        return self.dp_replicate * self.dp_shard

    @property
    def placement(self) -> Placement:
        """Stage -> rank."""
        return self.compute.placement

    @cached_property
    def compute(self) -> Schedule:
        """The compute order."""
        return generate(
            self.schedule,
            self.pp_size,
            self.num_chunks,
            self.num_microbatches,
            unit_size=self.unit_size,
            seam=self.seam,
            slots=self.slots,
            costs=self.costs,
            refine=self.refine,
        )

    def require_split(self, what: str) -> None:
        """Refuse a schedule whose backwards are fused, with which `what` can do nothing.

        Raises:
            ValueError: naming `what`, and schedules that would do.
        """
        if self.compute.fused:
            raise ValueError(
                f"{what} needs a schedule that splits B from W, such as zeropp or zb-v; "
                f"got {self.schedule!r}"
            )

    def lower(self, schedule: Schedule, *, sharded: bool) -> Program:
        """`schedule` as a program of this plan, with collectives if parameters are sharded."""
        return lower(
            schedule,
            self.shard if sharded else None,
            max_resident=self.max_resident,
            prefetch=self.prefetch,
            recv_ahead=self.recv_ahead,
        )

    def stage_blocks(self, num_blocks: int) -> tuple[range, ...]:
        """For each stage, the indices of its blocks.

        Without a `split`, sizes differ by at most one and the outermost stages take the spare
        blocks, since embedding and head are usually lighter than layers.

        Raises:
            ValueError: fewer blocks than stages, or a split that does not fit them.
        """
        stages = self.placement.num_stages
        if num_blocks < stages:
            raise ValueError(
                f"the model has {num_blocks} blocks, fewer than pp_size x num_chunks = {stages} "
                f"stages; use at most {num_blocks} stages or more layers"
            )
        sizes = self.split or _even_split(num_blocks, stages)
        if len(sizes) != stages or min(sizes) < 1 or sum(sizes) != num_blocks:
            raise ValueError(
                f"split must list {stages} positive sizes that sum to {num_blocks} blocks, "
                f"got {list(sizes)}"
            )
        return tuple(range(a, b) for a, b in pairwise(accumulate(sizes, initial=0)))


def _even_split(num_blocks: int, stages: int) -> tuple[int, ...]:
    size, spare = divmod(num_blocks, stages)
    outermost_first = sorted(range(stages), key=lambda s: (min(s, stages - 1 - s), s))
    larger = set(outermost_first[:spare])
    return tuple(size + (stage in larger) for stage in range(stages))

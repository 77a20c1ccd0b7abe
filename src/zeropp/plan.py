"""A plan says what runs: sizes, order, sharding and the cut of the model, as data."""

from dataclasses import dataclass

from zeropp.costs import Costs
from zeropp.ir import Order, Recompute
from zeropp.ir.numbers import Count, Size, check_numbers
from zeropp.program import Policy


@dataclass(frozen=True)
class Sizes:
    """P, V and B, which come first in a plan."""

    pp_size: Size = 1
    """P, ranks in a pipeline."""
    num_chunks: Size = 1
    """V, stages per rank."""
    num_microbatches: Size = 1
    """B, micro-batches per step and pipeline."""


@dataclass(frozen=True)
class Plan(Order, Sizes):
    """Sizes, order and sharding of one training step.

    Making one checks its numbers and generates nothing: whether the schedule exists and fits shows
    when `zeropp.build.program_of`, or `zeropp.pipeline`, makes its program.

    Raises:
        ValueError: the field that is out of range, with what would fit.
    """

    dp_shard: Size = 1
    """Ranks over which parameters, gradients and optimizer state are sharded."""
    dp_replicate: Size = 1
    """Copies of such a shard group (HSDP)."""
    shard: str = "unit"
    """When parameters are gathered and gradients reduced: unit, step or microbatch."""
    max_resident: Size = 2
    """For shard unit, most stages of a rank whose parameters are gathered at once."""
    prefetch: Count | None = None
    """Most compute actions before its first use that a gather is issued; without it, as soon as
    there is room."""
    split: tuple[int, ...] | None = None
    """Blocks in each stage, embedding and head included; without it, nearly equal."""
    recompute: str = "none"
    """What of a block is run again in its B: none, selective or full."""
    costs: Costs | None = None
    """What the order is made for; without it, equal stages and free transfers."""

    def __post_init__(self) -> None:
        check_numbers(self)
        for name, choices in (("shard", list(Policy)), ("recompute", list(Recompute))):
            given = getattr(self, name)
            if given not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}, got {given!r}")

    @property
    def world_size(self) -> int:
        """P x D, D = dp_replicate x dp_shard."""
        return self.pp_size * self.dp_size

    @property
    def dp_size(self) -> int:
        """D, ranks that hold the same stages and see different data."""
        return self.dp_replicate * self.dp_shard

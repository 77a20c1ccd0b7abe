"""A schedule is the order of compute actions on every rank, as plain data."""

from dataclasses import dataclass
from functools import cached_property

from zeropp.ir.action import Action, Kind
from zeropp.ir.placement import Placement


@dataclass(frozen=True)
class Schedule:
    """Compute actions per rank, and how they were made.

    Attributes:
        name: the generator's name, such as `zeropp`.
        placement: stage -> rank.
        units: micro-batches in each scheduling unit, in order; they sum to B.
        actions: for each rank, its F, B, W and BW in the order in which it runs them.
        params: the generator's parameters, as sorted (name, text) pairs.

    Raises:
        ValueError: the number of ranks differs from the placement's, or a unit is empty.
    """

    name: str
    placement: Placement
    units: tuple[int, ...]
    actions: tuple[tuple[Action, ...], ...]
    params: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        ranks = self.placement.pp_size
        if len(self.actions) != ranks:
            raise ValueError(f"actions must list pp_size={ranks} ranks, got {len(self.actions)}")
        if not self.units or min(self.units) < 1:
            raise ValueError(f"units must be positive sizes, got {self.units}")

    @cached_property
    def num_microbatches(self) -> int:
        """B."""
        return sum(self.units)

    @cached_property
    def fused(self) -> frozenset[tuple[int, int | None]]:
        """The (stage, microbatch) pairs whose backward is a BW."""
        return frozenset(
            (a.stage, a.microbatch) for order in self.actions for a in order if a.kind is Kind.BW
        )

    @cached_property
    def trains(self) -> bool:
        """Whether the schedule has backward actions; an evaluation schedule has none."""
        return any(a.kind is not Kind.F for order in self.actions for a in order)

    def backward_of(self, stage: int, microbatch: int | None) -> Action:
        """The action that produces the gradient of the stage's input."""
        kind = Kind.BW if (stage, microbatch) in self.fused else Kind.B
        return Action(kind, stage, microbatch)

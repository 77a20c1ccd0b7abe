"""What a user asks of a generator, validated once for all of them."""

from dataclasses import dataclass

from zeropp.costs import Costs
from zeropp.ir.placement import Placement, Shape


@dataclass(frozen=True)
class Request:
    """Sizes and knobs of a schedule.

    Attributes:
        pp_size: P, ranks.
        num_chunks: V, stages per rank.
        num_microbatches: B.
        unit_size: U, for schedules that have units; None: the generator's default.
        seam: what happens between units, for `zeropp`; None: the generator's default.
        slots: most activations that a rank may hold, for `zeropp`; None: the generator's default.
        costs: durations of the stages, for generators that go by them; None: all equal, no P2P.

    Raises:
        ValueError: a size below 1, U above B, or costs for another number of stages than P x V.
    """

    pp_size: int
    num_chunks: int
    num_microbatches: int
    unit_size: int | None = None
    seam: str | None = None
    slots: int | None = None
    costs: Costs | None = None

    def __post_init__(self) -> None:
        for name in ("pp_size", "num_chunks", "num_microbatches", "unit_size", "slots"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.unit_size is not None and self.unit_size > self.num_microbatches:
            raise ValueError(
                f"unit_size must be at most num_microbatches ({self.num_microbatches}), "
                f"got {self.unit_size}"
            )
        if self.costs is not None and self.costs.num_stages != self.pp_size * self.num_chunks:
            raise ValueError(
                f"costs must list {self.pp_size * self.num_chunks} stages (pp_size x num_chunks), "
                f"got {self.costs.num_stages}"
            )

    def unit_size_or_ranks(self) -> int:
        """U, by default P, or B if that is less."""
        return self.unit_size or min(self.pp_size, self.num_microbatches)

    def placement(self, shape: Shape = Shape.LOOP) -> Placement:
        """The placement of this size and the given shape."""
        return Placement(shape, self.pp_size, self.num_chunks)

    def refuse_chunks(self, name: str, instead: str) -> None:
        """Raise ValueError unless V is 1."""
        if self.num_chunks != 1:
            raise ValueError(
                f"num_chunks must be 1 for {name}, got {self.num_chunks}; "
                f"with several chunks use {instead}"
            )

    def vee(self, name: str) -> Placement:
        """The vee of two chunks, for schedules that exist on no other placement.

        Raises:
            ValueError: V is not 2.
        """
        if self.num_chunks != 2:
            raise ValueError(f"num_chunks must be 2 for {name} (a vee), got {self.num_chunks}")
        return self.placement(Shape.VEE)


def split_evenly(total: int, parts: int) -> tuple[int, ...]:
    """`total` in `parts` sizes that differ by at most one, larger ones first."""
    size, larger = divmod(total, parts)
    return (size + 1,) * larger + (size,) * (parts - larger)

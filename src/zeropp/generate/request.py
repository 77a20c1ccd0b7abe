"""What a user asks of a generator, validated once for all of them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from zeropp.costs import Costs
from zeropp.ir.action import Action
from zeropp.ir.placement import Placement, Shape
from zeropp.ir.schedule import Schedule

_MOST_PAIRS = 2**21  # of a stage and a micro-batch; more actions fit no memory


@dataclass(frozen=True)
class Request:
    """Sizes and knobs of a schedule.

    Attributes:
        pp_size: P, ranks.
        num_chunks: V, stages per rank.
        num_microbatches: B.
        unit_size: U, for schedules that have units; None: the generator's default.
        seam: what happens between units; None: the generator's default.
        slots: most activations that a rank may hold; None: the generator's default.
        costs: durations of the stages, for generators that go by them; None: all equal, no P2P.
        max_resident: most stages of a rank whose parameters are gathered at once, where gathers
            take time; None: they stay.

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
    max_resident: int | None = None

    def __post_init__(self) -> None:
        for name in (
            "pp_size",
            "num_chunks",
            "num_microbatches",
            "unit_size",
            "slots",
            "max_resident",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        pairs = self.pp_size * self.num_chunks * self.num_microbatches
        if pairs > _MOST_PAIRS:
            raise ValueError(
                f"num_microbatches: pp_size x num_chunks x num_microbatches must be at most "
                f"{_MOST_PAIRS}, got {pairs}"
            )
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

    @property
    def unit_size_or_ranks(self) -> int:
        """U, by default P, or B if that is less."""
        return self.unit_size or min(self.pp_size, self.num_microbatches)

    @property
    def costs_or_equal(self) -> Costs:
        """The costs, by default equal stages and free P2P."""
        return self.costs or Costs.uniform(self.pp_size, self.num_chunks)

    def placement(self, shape: Shape = Shape.LOOP) -> Placement:
        """The placement of this size and the given shape."""
        return Placement(shape, self.pp_size, self.num_chunks)

    def schedule(
        self, name: str, order: Callable[[int], Iterable[Action]], shape: Shape = Shape.LOOP
    ) -> Schedule:
        """The batch as one unit; `order` says what a rank runs."""
        actions = tuple(tuple(order(rank)) for rank in range(self.pp_size))
        return Schedule(name, self.placement(shape), (self.num_microbatches,), actions)


def split_evenly(total: int, parts: int) -> tuple[int, ...]:
    """`total` in `parts` sizes that differ by at most one, larger ones first."""
    size, larger = divmod(total, parts)
    return (size + 1,) * larger + (size,) * (parts - larger)


def split_within(total: int, largest: int) -> tuple[int, ...]:
    """`total` in the fewest nearly equal sizes that are at most `largest`."""
    return split_evenly(total, -(-total // largest))

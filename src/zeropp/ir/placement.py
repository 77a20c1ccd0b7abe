"""A placement says which rank holds which stage.

loop, P=4, V=2                 vee, P=4, V=2
rank 0: stages 0 4             rank 0: stages 0 7
rank 1: stages 1 5             rank 1: stages 1 6
rank 2: stages 2 6             rank 2: stages 2 5
rank 3: stages 3 7             rank 3: stages 3 4
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import accumulate, pairwise


class Shape(StrEnum):
    """The way stages are laid over ranks: round and round, or there and back."""

    LOOP = "loop"
    VEE = "vee"


@dataclass(frozen=True)
class Placement:
    """The map between global stage index, rank and chunk.

    Args:
        shape: `loop` (stage s on rank s mod P) or `vee` (odd chunks run backwards over the ranks).
        pp_size: P, ranks in the pipeline.
        num_chunks: V, stages per rank.

    Raises:
        ValueError: P or V below 1.
    """

    shape: Shape
    pp_size: int
    num_chunks: int

    def __post_init__(self) -> None:
        if self.pp_size < 1:
            raise ValueError(f"pp_size must be at least 1, got {self.pp_size}")
        if self.num_chunks < 1:
            raise ValueError(f"num_chunks must be at least 1, got {self.num_chunks}")

    @cached_property
    def num_stages(self) -> int:
        """P * V."""
        return self.pp_size * self.num_chunks

    @cached_property
    def ranks(self) -> tuple[int, ...]:
        """For each stage, the rank that holds it; within a chunk, `stage_of` is its own inverse."""
        P = self.pp_size
        return tuple(self.stage_of(s % P, s // P) % P for s in range(self.num_stages))

    @cached_property
    def hops(self) -> tuple[bool, ...]:
        """For each stage, whether the next one is on another rank; False for the last."""
        return (*(a != b for a, b in pairwise(self.ranks)), False)

    def rank_of(self, stage: int) -> int:
        """The rank that holds `stage`."""
        return self.ranks[stage]

    def chunk_of(self, stage: int) -> int:
        """Which of its rank's stages `stage` is, counted in forward order."""
        return stage // self.pp_size

    def stage_of(self, rank: int, chunk: int) -> int:
        """The global index of `rank`'s stage number `chunk`."""
        backwards = self.shape is Shape.VEE and chunk % 2 == 1
        return chunk * self.pp_size + (self.pp_size - 1 - rank if backwards else rank)

    def stages_of(self, rank: int) -> tuple[int, ...]:
        """The stages of `rank`, in forward order."""
        return tuple(self.stage_of(rank, chunk) for chunk in range(self.num_chunks))


def stage_blocks(
    num_blocks: int, num_stages: int, split: tuple[int, ...] | None = None
) -> tuple[range, ...]:
    """For each stage, the indices of its blocks.

    Without a `split`, sizes differ by at most one and the outermost stages take the spare blocks,
    since embedding and head are usually lighter than layers.

    Raises:
        ValueError: fewer blocks than stages, or a split that does not fit them.
    """
    if num_blocks < num_stages:
        raise ValueError(
            f"the model has {num_blocks} blocks, fewer than pp_size x num_chunks = {num_stages} "
            f"stages; use at most {num_blocks} stages or more layers"
        )
    sizes = split or _even_split(num_blocks, num_stages)
    if len(sizes) != num_stages or min(sizes) < 1 or sum(sizes) != num_blocks:
        raise ValueError(
            f"split must list {num_stages} positive sizes that sum to {num_blocks} blocks, "
            f"got {list(sizes)}"
        )
    return in_blocks(sizes)


def in_blocks(sizes: Iterable[int]) -> tuple[range, ...]:
    """Indices from 0 on, in consecutive blocks of these sizes."""
    return tuple(range(first, end) for first, end in pairwise(accumulate(sizes, initial=0)))


def _even_split(num_blocks: int, stages: int) -> tuple[int, ...]:
    size, spare = divmod(num_blocks, stages)
    outermost_first = sorted(range(stages), key=lambda s: (min(s, stages - 1 - s), s))
    larger = set(outermost_first[:spare])
    return tuple(size + (stage in larger) for stage in range(stages))

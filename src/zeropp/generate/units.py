"""Units on the loop: the orders of F and of B that all ranks share, whatever runs between.

On every rank the forwards run unit by unit and chunk by chunk upwards, the backwards likewise
downwards. Both orders are the same on all ranks. V=2, units of 2 and 1 micro-batches:

    index              0  1  2  3  4  5
    F: chunk           0  0  1  1  0  1
       micro-batch     0  1  0  1  2  2
    B: chunk           1  1  0  0  1  0
       micro-batch     0  1  0  1  2  2
"""

from collections.abc import Iterable

from zeropp.generate.events import Problem
from zeropp.ir.placement import in_blocks

Sizes = tuple[int, ...]


class Orders:
    """F's and B's in order, numbered as on rank 0; other ranks add rank * B.

    Behind the last of each comes a number whose input never arrives.
    """

    def __init__(self, problem: Problem, units: Sizes) -> None:
        self.units, B = units, problem.num_microbatches
        P, V = problem.placement.pp_size, problem.placement.num_chunks
        blocks = in_blocks(units)

        def numbers(first: int, chunks: Iterable[int]) -> list[int]:
            order = list(chunks)
            listed = [first + chunk * P * B + m for unit in blocks for chunk in order for m in unit]
            return [*listed, 2 * problem.pairs]

        self.forwards = numbers(0, range(V))
        self.backwards = numbers(problem.pairs, reversed(range(V)))

    def __len__(self) -> int:
        return len(self.forwards) - 1


def hiding_size(problem: Problem) -> int:
    """The fewest micro-batches whose F's, in the slowest stage, last for one round of any chunk."""
    P, V = problem.placement.pp_size, problem.placement.num_chunks
    chunks = [problem.durations[chunk * P : (chunk + 1) * P] for chunk in range(V)]
    return max(-(-(sum(times) + P * problem.latency) // max(times)) for times in chunks)

"""When a rank's parameters are there while a pass runs: W's need none, and fill the wait.

Which visits of stages there are follows from the order of F and B (program/collectives.py): a
gather is issued as soon as there is room. Collectives of a rank come one after the other.
"""

from collections.abc import Sequence

from zeropp.generate.events import NEVER, Problem
from zeropp.generate.units import Orders
from zeropp.ir.placement import in_blocks
from zeropp.program.collectives import Visit, visits


class Residency:
    """One rank's collectives, as an order of its F's and B's is run.

    Args:
        problem: whose gathers take time.
        orders: F's and B's.
        before: how many F's this rank runs before each B.
        rank: which.
    """

    def __init__(self, problem: Problem, orders: Orders, before: Sequence[int], rank: int) -> None:
        self.problem, B = problem, problem.num_microbatches
        stages = problem.placement.num_stages
        merged = _merged(before)
        uses = [
            Visit((numbers[index] // B + rank) % stages, at, at)
            for at, (numbers, index) in enumerate(
                (orders.backwards if is_b else orders.forwards, index) for is_b, index in merged
            )
        ]
        found = visits(uses, problem.max_resident)
        self.visits = sorted(found, key=lambda visit: (visit.first, visit.last))
        self.of_f, self.of_b = self._visit_of_each(uses, merged)
        self.ready = [NEVER for _ in self.visits]
        self.issued = self.busy = 0  # how many gathers; the stream, until
        self.ends = {block.stop for block in _blocks(orders, problem.placement.num_chunks)}

    def _visit_of_each(
        self, uses: Sequence[Visit], merged: Sequence[tuple[bool, int]]
    ) -> tuple[list[int], list[int]]:
        """For each F and each B, the place of its visit."""
        places: tuple[list[int], list[int]] = [], []
        last = {visit.stage: -1 for visit in uses}
        current: dict[int, int] = {}
        coming: dict[int, list[int]] = {stage: [] for stage in last}
        for place in reversed(range(len(self.visits))):
            coming[self.visits[place].stage].append(place)
        for (stage, at, _), (is_b, _) in zip(uses, merged, strict=True):
            if at > last[stage]:
                current[stage] = coming[stage].pop()
                last[stage] = self.visits[current[stage]].last
            places[is_b].append(current[stage])
        return places[0], places[1]

    def issue(self, done: int, now: int) -> None:
        """Start the gathers for which there is room when `done` F's and B's are over."""
        while self.issued < len(self.visits) and self.visits[self.issued].first <= done:
            self.busy = max(self.busy, now) + self.problem.gathers[self.visits[self.issued].stage]
            self.ready[self.issued] = self.busy
            self.issued += 1

    def reduce(self, weights: int, stage: int, now: int) -> None:
        """Start a reduction, if the W that is number `weights` is its unit's last of its stage."""
        if weights in self.ends:
            self.busy = max(self.busy, now) + self.problem.reduces[stage]


def _merged(before: Sequence[int]) -> list[tuple[bool, int]]:
    """F's and B's in the order in which they run: whether it is a B, and its index."""
    merged, forwards = list[tuple[bool, int]](), 0
    for index, due in enumerate(before):
        merged += [(False, f) for f in range(forwards, due)]
        merged.append((True, index))
        forwards = max(forwards, due)
    return merged


def _blocks(orders: Orders, num_chunks: int) -> Sequence[range]:
    """The B's, and so the W's, of one unit and chunk each."""
    return in_blocks(size for size in orders.units for _ in range(num_chunks))

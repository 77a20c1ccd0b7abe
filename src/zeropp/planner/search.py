"""Best-first search: bounds order what is looked at, and what cannot win is never simulated.

Layouts wait in a queue by the time below which none of their orders gets. The first in the queue is
opened into its orders, which wait likewise; an order that comes first is made and waits once more,
by its makespan without collectives; when it comes first again it is simulated. An order with more
slots joins them where what was made with fewer uses them all and fits the memory. The search ends
when the first in the queue cannot beat the best so far, so what it finds is the best of all those.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from heapq import heappop, heappush
from itertools import count, product
from typing import NamedTuple

from zeropp.costs import Costs
from zeropp.ir.placement import Placement, Shape
from zeropp.ir.program import Policy
from zeropp.planner.bounds import (
    held_time_bound,
    made_memory_bound,
    made_time_bound,
    memory_bound,
    order_time_bound,
    time_bound,
)
from zeropp.planner.layout import Layout
from zeropp.planner.order import Ladder, Order, ladders
from zeropp.planner.predict import Made, Prediction, made_order, predict
from zeropp.planner.pricing import Priced, Stages, cut, price
from zeropp.planner.problem import Problem
from zeropp.planner.profile import Setting

_MAKING = 2 / 3  # of a limited effort, after which nothing more is made


@dataclass(frozen=True)
class Candidate:
    """An order of a priced layout, and what it is predicted to take."""

    priced: Priced
    order: Order
    prediction: Prediction

    @property
    def step_s(self) -> float:
        """Predicted time of a step."""
        return self.prediction.step_s


class Counts(NamedTuple):
    """How much a search looked at."""

    layouts: int
    simulated: int


class _Waiting(NamedTuple):
    """A layout, orders of it of which the first is to be made, or what was made of one."""

    priced: Priced
    ladder: Ladder = ()
    made: Made | None = None


Wanted = Callable[[Layout, Order], bool]


def anything(layout: Layout, order: Order) -> bool:
    """Every plan is wanted."""
    return True


class Search:
    """Searches over one problem, which share layouts and simulations.

    Args:
        problem: what to plan.
        chunks: V to try where P > 1.
    """

    def __init__(self, problem: Problem, chunks: tuple[int, ...] = (1, 2, 4, 8)) -> None:
        self.problem = problem
        self._made: dict[tuple[Placement, Setting, Order, Costs | None], Made] = {}
        self._predicted: dict[tuple[Layout, Order], Prediction] = {}
        self._too_large: dict[tuple[Placement, Setting, Order], int] = {}  # with so many shards
        self._ladders = cache(lambda placement, batch: tuple(ladders(placement, batch)))
        self.layouts = tuple(self._priced(chunks))
        self._bounds = [
            max(time_bound(priced), held_time_bound(priced, problem.usable))
            for priced in self.layouts
        ]

    @property
    def counts(self) -> Counts:
        """Of all searches so far."""
        return Counts(len(self.layouts), len(self._predicted))

    def best(
        self, wanted: Wanted = anything, at_most: float = float("inf"), effort: float = float("inf")
    ) -> Candidate | None:
        """The fastest that fits the memory and is `wanted`, if one is faster than `at_most`.

        Of equally fast ones the first found is taken, so that equal inputs give equal plans.

        Args:
            wanted: which orders of which layouts count.
            at_most: seconds of a step.
            effort: how many orders are made or simulated, beyond those of earlier searches,
                before the search ends with the best so far, the last third of them simulated;
                without it, nothing is better.
        """
        best, least, serial = None, 0.0, count()
        queue: list[tuple[float, int, _Waiting]] = []
        opened: Iterable[tuple[float, _Waiting]]
        opened = zip(self._bounds, map(_Waiting, self.layouts), strict=True)
        making, most = self._work + _MAKING * effort, self._work + effort
        while True:
            for bound, waiting in opened:
                if (bound := max(bound, least)) < at_most:
                    heappush(queue, (bound, next(serial), waiting))
            if not queue or queue[0][0] >= at_most or self._work >= most:
                return best
            least, _, (priced, ladder, made) = heappop(queue)
            if made is None and self._work >= making:
                opened = ()
            elif not ladder:
                opened = self._orders(priced, wanted)
            elif made is None:
                opened = self._making(priced, ladder)
            else:
                opened, found = (), self._fitting(priced, ladder[0])
                if found is not None and found.step_s < at_most:
                    best, at_most = Candidate(priced, ladder[0], found), found.step_s

    @property
    def _work(self) -> int:
        return len(self._made) + len(self._predicted)

    def _orders(self, priced: Priced, wanted: Wanted) -> Iterator[tuple[float, _Waiting]]:
        """The wanted orders of a layout that may fit the memory."""
        usable = self.problem.usable
        for ladder in self._ladders(priced.layout.placement, priced.num_microbatches):
            if wanted(priced.layout, ladder[0]) and memory_bound(priced, ladder[0]) <= usable:
                yield self._waiting(priced, ladder)

    def _waiting(self, priced: Priced, ladder: Ladder) -> tuple[float, _Waiting]:
        """Orders to be made, and what none of them beats: more slots may be faster."""
        return order_time_bound(priced, ladder[-1]), _Waiting(priced, ladder)

    def _making(self, priced: Priced, ladder: Ladder) -> Iterator[tuple[float, _Waiting]]:
        """What is made of the first, if it may fit the memory, and the others if they may too."""
        first, *more = ladder
        made, usable = self._make(priced, replace(first, shard=Policy.STEP)), self.problem.usable
        if made_memory_bound(priced, first, made) <= usable:
            yield made_time_bound(priced, first, made), _Waiting(priced, (first,), made)
            if (
                more
                and made.slots == first.slots
                and made_memory_bound(priced, first, made, more[0].slots) <= usable
            ):
                yield self._waiting(priced, tuple(more))

    def _make(self, priced: Priced, order: Order) -> Made:
        """Made once for all layouts and orders that differ in nothing it goes by."""
        V, by_gathers = priced.layout.placement.num_chunks, order.generator.by_gathers
        resident = min(order.gathered or V, V) if by_gathers(priced.request(order)) else V
        alike = replace(order, shard=Policy.UNIT, max_resident=resident)
        key = (priced.layout.placement, priced.layout.setting, alike, priced.made_for(alike))
        if key not in self._made:
            self._made[key] = made_order(priced, alike)
        return self._made[key]

    def _fitting(self, priced: Priced, order: Order) -> Prediction | None:
        """What it is predicted to take; None: it does not fit, or did not with more shards."""
        layout = priced.layout
        key = (layout.placement, layout.setting, order)
        if layout.dp_shard <= self._too_large.get(key, 0):
            return None
        found = self._predict(priced, order)
        if found.peak_bytes <= self.problem.usable:
            return found
        self._too_large[key] = layout.dp_shard
        return None

    def _predict(self, priced: Priced, order: Order) -> Prediction:
        key = (priced.layout, order)
        if key not in self._predicted:
            self._predicted[key] = predict(priced, order, self._make(priced, order))
        return self._predicted[key]

    def _priced(self, chunks: tuple[int, ...]) -> Iterator[Priced]:
        """The layouts that may fit the memory."""
        cuts: dict[tuple[Placement, Setting], Stages] = {}
        for layout in layouts(self.problem, chunks):
            key = (layout.placement, layout.setting)
            if key not in cuts:
                cuts[key] = cut(self.problem, layout)
            priced = price(self.problem, layout, cuts[key])
            if memory_bound(priced) <= self.problem.usable:
                yield priced


def layouts(problem: Problem, chunks: tuple[int, ...]) -> Iterator[Layout]:
    """All ways to use the problem's devices, small pipelines first."""
    blocks = len(problem.profile.kinds)
    for P in _divisors(problem.gpus):
        if blocks < P:
            break
        D = problem.gpus // P
        for setting in problem.profile.blocks:
            if problem.global_batch % (D * setting.micro_batch_size):
                continue
            for placement, shards in product(_placements(P, blocks, chunks), _divisors(D)):
                if problem.split is None or len(problem.split) == placement.num_stages:
                    yield Layout(placement, shards, D // shards, setting)


def _placements(P: int, blocks: int, chunks: tuple[int, ...]) -> Iterator[Placement]:
    """For P=1, groups of blocks that are gathered together: 1, 2, 4, ..., one for each block."""
    if P == 1:
        sizes = {2**k for k in range(blocks.bit_length())} | {blocks}
        yield from (Placement(Shape.LOOP, 1, V) for V in sorted(sizes))
        return
    for V in chunks:
        if blocks >= P * V:
            yield Placement(Shape.LOOP, P, V)
    if blocks >= 2 * P:
        yield Placement(Shape.VEE, P, 2)


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]

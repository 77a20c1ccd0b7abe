"""The section of docs/schedules.md on refining: how far above the floor, before and after."""

from collections.abc import Iterator

from zeropp.costs import Costs, floor
from zeropp.generate import GENERATORS, generate
from zeropp.ir import Order, Schedule, evaluate

P, V, B = 4, 2, 8
_TIMES = (2.0, 2.2, 1.6)  # F, B and W of one micro-batch through a whole rank

TEXT = (
    "All schedules but a carried `zeropp` are made for equal stages and free transfers, and lose "
    "where times are others. `refine` (`zeropp simulate --refine`, `Plan(refine=True)`) moves the "
    "actions on the critical path of any schedule to and fro as long as the step gets no slower, "
    "in the memory that the schedule holds, or in `slots`; `Adapter` does so for measured times. "
    f"Time above the floor in %, as made -> refined, for P={P}, B={B}, (T_F, T_B, T_W) = "
    f"{_TIMES}, V={V} or 1. A carried `zeropp` is made for the times, and little is left to refine."
)

HEAD = """\
| schedule | hops of 0.05 | and a last stage 30 % longer | or a second stage 30 % longer |
|---|---|---|---|
"""


def lines() -> Iterator[str]:
    """One for each schedule."""
    for name, generator in GENERATORS.items():
        chunks = V if generator.chunks is None or V in generator.chunks else 1
        plain = Costs.uniform(P, chunks, *_TIMES, latency=0.05)
        cases = plain, plain.scaled(P * chunks - 1, 1.3), plain.scaled(1, 1.3)
        cells = name, *(_before_and_after(name, chunks, costs) for costs in cases)
        yield f"| {' | '.join(cells)} |"


def _before_and_after(name: str, chunks: int, costs: Costs) -> str:
    made, better = (
        generate(Order(name, refine=refine), P, chunks, B, costs=costs) for refine in (False, True)
    )
    return f"{_above(made, costs):.1f} -> {_above(better, costs):.1f}"


def _above(schedule: Schedule, costs: Costs) -> float:
    least = floor(schedule.placement, B, costs)
    return max(0, 100 * (evaluate(schedule, costs.duration, costs.latency).makespan / least - 1))

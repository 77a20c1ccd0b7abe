"""Timelines that the tests of pictures share."""

from collections.abc import Callable

import pytest

from zeropp.costs import Costs
from zeropp.generate import generate
from zeropp.ir import Action, Kind, Order, Span, Timeline, evaluate

Make = Callable[..., Timeline]


@pytest.fixture(scope="session")
def make() -> Make:
    """Predict a schedule's timeline with F, B and W of one unit per rank."""

    def predict(
        name: str, P: int, V: int, B: int, *, weight: float = 1.0, latency: float = 0.0
    ) -> Timeline:
        costs = Costs.uniform(P, V, 1.0, 1.0, weight)
        seam = "drain" if name == "zeropp" else None
        return evaluate(generate(Order(name, seam=seam), P, V, B), costs.duration, latency)

    return predict


@pytest.fixture(scope="session")
def with_communication(make: Make) -> Timeline:
    """A timeline with every lane: two gathers that overlap, a reduce, and messages that overlap."""
    compute = make("zeropp", 2, 2, 2)
    added = (
        Span(Action(Kind.UNSHARD, 0), 0.0, 1.0),
        Span(Action(Kind.UNSHARD, 2), 0.5, 1.5),
        Span(Action(Kind.RESHARD, 0), 2.0, 2.0),
        Span(Action(Kind.SEND_F, 0, 0), 0.5, 1.5),
        Span(Action(Kind.SEND_F, 0, 1), 1.0, 2.0),
        Span(Action(Kind.RECV_F, 2, 0), 2.0, 2.5),
        Span(Action(Kind.REDUCE, 0), 5.0, 6.0),
    )
    first = tuple(sorted((*compute.spans[0], *added), key=lambda span: span.start))
    return Timeline("run", compute.placement, (first, *compute.spans[1:]))


@pytest.fixture(scope="session")
def measured(make: Make) -> Timeline:
    """A timeline as a run measures it: milliseconds, uneven, not starting at 0."""
    prediction = make("zeropp", 4, 2, 4)

    def clock(time: float) -> float:
        return 50_000.0 + 3.3 * time + 0.11 * (time * 7.3 % 1.0)

    spans = tuple(
        tuple(Span(s.action, clock(s.start), clock(s.end)) for s in rank)
        for rank in prediction.spans
    )
    return Timeline("measured", prediction.placement, spans, unit="ms")

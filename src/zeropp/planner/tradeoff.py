"""The trade-off over U: what larger units save in gathers, and what they hold."""

from dataclasses import dataclass

from zeropp.planner.order import Order
from zeropp.planner.planner import Answer
from zeropp.planner.predict import made_order, predict
from zeropp.planner.prediction import Prediction


@dataclass(frozen=True)
class Point:
    """The winner's layout with another unit size."""

    unit_size: int
    prediction: Prediction
    fits: bool


def over_unit_sizes(answer: Answer) -> tuple[Point, ...]:
    """ZeroPP in units of 1, 2, 4, ... micro-batches, the winner's U and B, at the winner's layout.

    Slots are the schedule's default for each U.
    """
    priced, own = answer.best.priced, answer.best.order
    batch = priced.num_microbatches
    sizes = {2**k for k in range(batch.bit_length())} | {batch, own.unit_size or batch}
    seam = "carry" if priced.layout.pp_size > 1 else "drain"
    points = []
    for U in sorted(size for size in sizes if size <= batch):
        order = Order("zeropp", max_resident=own.max_resident, unit_size=U, seam=seam)
        found = predict(priced, order, made_order(priced, order))
        points.append(Point(U, found, found.peak_bytes <= answer.problem.usable))
    return tuple(points)

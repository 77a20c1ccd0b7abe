"""ZeroPP's drained order: units one after the other, each empty before the next starts.

Source: arXiv 2402.03791, and the order of its public implementation, with two corrections: the
first W follows B number 2p (not 2p + 1), and units smaller than P work.

One unit on rank p, loop placement, U micro-batches, V chunks:

    warm-up    min(2(P-1-p) + (V-1)U, UV) forwards, chunk by chunk
    pairs      F, B in the last chunk until the forwards are used up
    cool-down  the remaining B, chunk by chunk downwards
    W          oldest first: in a pair from B number 2p on, in the cool-down after each B
    end        all W of the unit are drained before the next unit starts
"""

from collections import deque
from collections.abc import Iterator

from zeropp.generate.request import Request, split_evenly
from zeropp.ir.action import Action, Kind
from zeropp.ir.placement import Placement
from zeropp.ir.schedule import Schedule


def drain(request: Request) -> Schedule:
    """Units of nearly equal size, none above `unit_size` (default P).

    Raises:
        ValueError: `slots` is given.
    """
    if request.slots is not None:
        raise ValueError("slots is a knob of seam carry; leave it out with seam drain")
    unit_size = request.unit_size_or_ranks()
    units = split_evenly(request.num_microbatches, -(-request.num_microbatches // unit_size))
    placement = request.placement()
    actions = tuple(tuple(_rank_order(placement, rank, units)) for rank in range(request.pp_size))
    params = (("seam", "drain"), ("unit_size", str(unit_size)))
    return Schedule("zeropp", placement, units, actions, params)


def _rank_order(placement: Placement, rank: int, units: tuple[int, ...]) -> Iterator[Action]:
    first = 0
    for size in units:
        yield from _unit_order(placement, rank, range(first, first + size))
        first += size


def _unit_order(placement: Placement, rank: int, unit: range) -> Iterator[Action]:
    stages = placement.stages_of(rank)
    forwards = deque(Action(Kind.F, s, m) for s in stages for m in unit)
    backwards = [Action(Kind.B, s, m) for s in reversed(stages) for m in unit]
    waiting: deque[Action] = deque()
    in_later_chunks = (placement.num_chunks - 1) * len(unit)
    for _ in range(min(2 * (placement.pp_size - 1 - rank) + in_later_chunks, len(forwards))):
        yield forwards.popleft()
    for count, backward in enumerate(backwards):
        paired = bool(forwards)
        if paired:
            yield forwards.popleft()
        yield backward
        waiting.append(Action(Kind.W, backward.stage, backward.microbatch))
        if not paired or count >= 2 * rank:
            yield waiting.popleft()
    yield from waiting

"""DualPipeV: forwards paired with backwards on a vee (DeepSeek; README of deepseek-ai/DualPipe).

DualPipe's one direction, folded over P ranks that hold two stages each. A pair is the forward of
one chunk and the fused backward of the other.

In the README a pair overlaps and takes the time F&B: with PP = 2P stages, bubble
(PP/2-1)(F&B + B - 3W), where B is the fused backward. That holds to the letter for this order if a
pair is one indivisible action of F&B = f+b+w: (P-1)(f+2b-w), in times of one chunk's pass. Here F
runs first, then BW, and the forward's result leaves before the pair is over: (P-1)(f+b-w).
"""

from collections import Counter, deque
from collections.abc import Iterator

from zeropp.generate.request import Request
from zeropp.ir.action import Action, Kind
from zeropp.ir.placement import Placement, Shape
from zeropp.ir.schedule import Schedule

_F0, _F1 = (Kind.F, 0), (Kind.F, 1)  # kind, chunk
_B0, _B1 = (Kind.B, 0), (Kind.B, 1)
_BW0, _BW1 = (Kind.BW, 0), (Kind.BW, 1)


def dualpipe_v(request: Request) -> Schedule:
    """Forward and fused backward in turn, all chunks alike; a vee of P ranks is PP = 2P stages.

    B below 2P is the order for 2P without the micro-batches that are not there.
    """
    placement, batch = request.placement(Shape.VEE), range(request.num_microbatches)
    full = max(len(batch), 2 * request.pp_size)

    def order(rank: int) -> Iterator[Action]:
        return (a for a in _rank_order(placement, rank, full) if a.microbatch in batch)

    return request.schedule("dualpipe-v", order, Shape.VEE)


def _passes(pp_size: int, rank: int, num_microbatches: int) -> Iterator[tuple[Kind, int] | None]:
    """The passes of a rank in order; None: the oldest W that waits."""
    behind, ahead = pp_size - 1 - rank, rank + 1
    drain = [_BW1, _BW0] * ahead
    yield from [_F0] * (2 * behind)
    yield from [_F0, _F1] * ahead
    yield from [_B1, None, _F1] * behind  # split, so that the first gradients travel on early
    yield from [_F0, _BW1, _F1, _BW0] * (num_microbatches - 2 * pp_size + ahead)  # steady
    yield from [_BW1, _F1, _BW0] * behind
    yield from drain[:ahead]
    yield from [(Kind.B, chunk) for _, chunk in drain[ahead:]]
    yield from [None, _B0] * behind
    yield from [None] * ahead


def _rank_order(placement: Placement, rank: int, num_microbatches: int) -> Iterator[Action]:
    """The passes, each with its micro-batch: every chunk runs them in ascending order."""
    started: Counter[tuple[bool, int]] = Counter()
    waiting: deque[Action] = deque()
    for step in _passes(placement.pp_size, rank, num_microbatches):
        if step is None:
            yield waiting.popleft()
            continue
        kind, chunk = step
        count = (kind is Kind.F, chunk)
        action = Action(kind, placement.stage_of(rank, chunk), started[count])
        yield action
        started[count] += 1
        if kind is Kind.B:
            waiting.append(action._replace(kind=Kind.W))

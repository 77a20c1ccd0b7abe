"""Interleaved 1F1B: 1F1B over V chunks per rank (Megatron-LM, arXiv 2104.04473, section 2.2)."""

from zeropp.generate.alternate import alternate
from zeropp.generate.request import Request, split_evenly
from zeropp.ir.action import Action, Kind
from zeropp.ir.schedule import Schedule


def interleaved_1f1b(request: Request) -> Schedule:
    """Chunks take turns every P micro-batches.

    Where B is no multiple of P, the turns are of nearly equal size and none is below P (B < P: one
    turn of B), since a turn below P would leave ranks waiting for the next chunk.
    """
    total = request.num_microbatches
    turns = split_evenly(total, max(1, total // request.pp_size))
    placement = request.placement()
    orders = []
    for rank in range(request.pp_size):
        stages = placement.stages_of(rank)
        orders.append(
            alternate(
                _in_turns(Kind.F, stages, turns),
                _in_turns(Kind.BW, stages[::-1], turns),
                warmup=2 * (request.pp_size - 1 - rank) + (request.num_chunks - 1) * turns[0],
            )
        )
    return Schedule("interleaved-1f1b", placement, (total,), tuple(orders))


def _in_turns(kind: Kind, stages: tuple[int, ...], turns: tuple[int, ...]) -> list[Action]:
    order: list[Action] = []
    first = 0
    for size in turns:
        order += [Action(kind, s, m) for s in stages for m in range(first, first + size)]
        first += size
    return order

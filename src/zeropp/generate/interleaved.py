"""Interleaved 1F1B: 1F1B over V chunks per rank (Megatron-LM, arXiv 2104.04473, section 2.2)."""

from zeropp.generate.alternate import alternate
from zeropp.generate.request import Request
from zeropp.generate.turns import in_turns, turn_sizes
from zeropp.ir.action import Kind
from zeropp.ir.schedule import Schedule


def interleaved_1f1b(request: Request) -> Schedule:
    """Chunks take turns every P micro-batches; see `turn_sizes` where B is no multiple of P."""
    turns = turn_sizes(request)
    placement = request.placement()
    orders = []
    for rank in range(request.pp_size):
        stages = placement.stages_of(rank)
        orders.append(
            alternate(
                in_turns(Kind.F, stages, turns),
                in_turns(Kind.BW, stages[::-1], turns),
                warmup=2 * (request.pp_size - 1 - rank) + (request.num_chunks - 1) * turns[0],
            )
        )
    return Schedule("interleaved-1f1b", placement, (request.num_microbatches,), tuple(orders))

"""1F1B: after P-1-p warm-up forwards, alternate (PipeDream-Flush, arXiv 2006.09503, figure 2)."""

from zeropp.generate.alternate import alternate
from zeropp.generate.request import Request
from zeropp.ir.action import Action, Kind
from zeropp.ir.schedule import Schedule


def one_forward_one_backward(request: Request) -> Schedule:
    """1F1B with fused backward; rank p holds at most P-p micro-batches' activations.

    Raises:
        ValueError: more than one chunk.
    """
    request.refuse_chunks("1f1b", instead="interleaved-1f1b")
    batch = range(request.num_microbatches)
    actions = tuple(
        alternate(
            [Action(Kind.F, rank, m) for m in batch],
            [Action(Kind.BW, rank, m) for m in batch],
            warmup=request.pp_size - 1 - rank,
        )
        for rank in range(request.pp_size)
    )
    return Schedule("1f1b", request.placement(), (request.num_microbatches,), actions)

"""GPipe: all forwards, then all backwards (Huang et al. 2019, arXiv 1811.06965, figure 2c)."""

from zeropp.generate.request import Request
from zeropp.ir.action import Action, Kind
from zeropp.ir.schedule import Schedule


def gpipe(request: Request) -> Schedule:
    """Fill, then drain; holds all B micro-batches' activations.

    Raises:
        ValueError: more than one chunk.
    """
    request.refuse_chunks("gpipe", instead="breadth-first")
    batch = range(request.num_microbatches)
    actions = tuple(
        tuple(Action(kind, rank, m) for kind in (Kind.F, Kind.BW) for m in batch)
        for rank in range(request.pp_size)
    )
    return Schedule("gpipe", request.placement(), (request.num_microbatches,), actions)

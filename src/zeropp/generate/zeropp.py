"""ZeroPP: units of U micro-batches, run blockwise, with W staggered into the bubble.

Between two units, the paper's order drains (`seam="drain"`: drain.py); carried W's fill that seam
(`seam="carry"`, the default: carry.py).
"""

from zeropp.generate.carry import carry
from zeropp.generate.drain import drain
from zeropp.generate.request import Request
from zeropp.ir.schedule import Schedule

_SEAMS = {"carry": carry, "drain": drain}


def zeropp(request: Request) -> Schedule:
    """The order of the seam that is asked for.

    Raises:
        ValueError: a seam other than `carry` and `drain`, or what the seam's order refuses.
    """
    seam = request.seam or "carry"
    if seam not in _SEAMS:
        raise ValueError(f"seam must be {' or '.join(_SEAMS)}, got {seam!r}")
    return _SEAMS[seam](request)

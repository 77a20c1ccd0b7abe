"""ZB-V: no idle tick between a rank's first and last in 1F1B's memory (arXiv 2401.10241, section 6).

PICTURE
"""

from zeropp.generate.building_block import BuildingBlock
from zeropp.generate.request import Request
from zeropp.generate.squeeze import squeeze
from zeropp.ir.schedule import Schedule


def zb_v(request: Request) -> Schedule:
    """Zero bubble at equal times, with P micro-batches' memory on every rank.

    Raises:
        ValueError: V is not 2.
    """
    placement = request.vee("zb-v")
    order = BuildingBlock(down=1, up=5).repeat("zb-v", placement, request.num_microbatches)
    return squeeze(order, slots=2 * request.pp_size, early=True)

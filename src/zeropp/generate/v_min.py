"""V-Min: the vee whose activations live shortest, one tick per hop (arXiv 2405.15362).

down = up = 1, the least there is. F0 and B1 fall on ticks of one parity, F1 and B0 on the other,
so these pairs never meet; F0 and B1 are 2P ticks apart on every rank, as are F1 and B0. Where P is
a multiple of 3 that is no distance modulo 6, and B waits two more ticks at rank 0.

PICTURE
"""

from zeropp.generate.building_block import BuildingBlock
from zeropp.generate.request import Request
from zeropp.generate.squeeze import squeeze
from zeropp.ir.schedule import Schedule


def v_min(request: Request) -> Schedule:
    """About a third of 1F1B's memory for two thirds of its bubble.

    Raises:
        ValueError: V is not 2.
    """
    placement = request.vee("v-min")
    block = BuildingBlock(down=1, up=1, wait_at_first=0 if request.pp_size % 3 else 2)
    order = block.repeat("v-min", placement, request.num_microbatches)
    return squeeze(order, slots=2 * ((request.pp_size + 4) // 3))

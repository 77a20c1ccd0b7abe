"""V-Half: the vee that holds half of 1F1B's activations (arXiv 2405.15362).

PICTURE
"""

from zeropp.generate.building_block import BuildingBlock
from zeropp.generate.request import Request
from zeropp.generate.squeeze import squeeze
from zeropp.ir.schedule import Schedule


def v_half(request: Request) -> Schedule:
    """Half of 1F1B's memory for half of its bubble.

    Raises:
        ValueError: V is not 2.
    """
    placement = request.vee("v-half")
    wait = 0 if request.pp_size % 2 else 3
    block = BuildingBlock(down=1, up=2, wait_at_first=wait, wait_at_last=1)
    order = block.repeat("v-half", placement, request.num_microbatches)
    return squeeze(order, slots=2 * ((request.pp_size + 2) // 2))

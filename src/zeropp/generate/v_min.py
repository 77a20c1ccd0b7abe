"""V-Min: the vee whose activations live shortest, one tick per hop (arXiv 2405.15362).

One tick per hop is the least there is. F0 and B1 fall on ticks of one parity, F1 and B0 on the
other, so these pairs never meet. F0 and B1 are 2P ticks apart on every rank, and so are F1 and B0:
where P is a multiple of 3 they would meet, and both turns at the last rank wait two more ticks.

    P=4     0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15
    rank 0 F0  .  .  .  .  .  . F1 B1  .  .  .  .  .  . B0
    rank 1  . F0  .  .  .  . F1  .  . B1  .  .  .  . B0  .
    rank 2  .  . F0  .  . F1  .  .  .  . B1  .  . B0  .  .
    rank 3  .  .  . F0 F1  .  .  .  .  .  . B1 B0  .  .  .

A rank idles for about the 4P ticks that the first micro-batch needs: 1F1B's bubble is 6(P-1).
"""

from zeropp.generate.building_block import BuildingBlock
from zeropp.generate.request import Request
from zeropp.generate.squeeze import squeeze
from zeropp.ir.schedule import Schedule


def v_min(request: Request) -> Schedule:
    """About a third of 1F1B's memory for two thirds of its bubble, at equal times.

    Peak 2 floor((P+4)/3) slots. At equal times and P >= 2 the bubble is 4(P-1)-1 times of one
    chunk's pass, at any B >= P; the paper's two thirds of 1F1B's are 4(P-1). At unequal times
    neighbours wait for each other on every micro-batch and the bubble grows with B.

    Raises:
        ValueError: V is not 2.
    """
    placement = request.vee("v-min")
    block = BuildingBlock(down=1, up=1, wait_at_last=0 if request.pp_size % 3 else 2)
    order = block.repeat("v-min", placement, request.num_microbatches)
    return squeeze(order, slots=2 * ((request.pp_size + 4) // 3))

"""V-Half: the vee that holds half of 1F1B's activations (arXiv 2405.15362).

One tick per hop downwards, two upwards. Modulo 3 all ranks then look alike, counted from their F0:
F0 and B1 at 0, F1 and B0 at 2 (both turns at the last rank wait one tick), W at 1. F0 and B1 are
3P ticks apart, and so are F1 and B0: 3 modulo 6 where P is odd; where P is even they would meet,
and B waits three more ticks at rank 0.

    P=3     0  1  2  3  4  5  6  7  8  9 10 11 12 13 14 15 16 17
    rank 0 F0  .  .  .  .  .  .  . F1 B1  .  .  .  .  .  .  . B0
    rank 1  . F0  .  .  .  . F1  .  .  . B1  .  .  .  . B0  .  .
    rank 2  .  . F0  . F1  .  .  .  .  .  . B1  . B0  .  .  .  .

The squeezed start, in which nothing waits for the ticks above, and W in the gaps at the end leave
about half of the block's 6P ticks idle. P=2, B=4 (f, b, w: chunk 1):

    rank 0  F0  .  . f0 F1 b0 w0 f1 F2 B0 b1 W0 w1 f2 F3 B1 b2 W1 w2 f3  . B2 b3 W2 w3 B3 W3
    rank 1   . F0 f0  .  . F1 f1 b0 B0 w0 F2 W0 f2 b1 B1 w1 F3 W1 f3 b2 B2 w2 W2 b3 B3 w3 W3
"""

from zeropp.generate.building_block import BuildingBlock
from zeropp.generate.request import Request
from zeropp.generate.squeeze import squeeze
from zeropp.ir.schedule import Schedule


def v_half(request: Request) -> Schedule:
    """Half of 1F1B's memory for half of its bubble, at equal times.

    Peak 2 floor((P+2)/2) slots. At equal times and P >= 2 the bubble is 3(P-1) times of one chunk's
    pass, one less where P is odd, at any B >= P; 1F1B's is 6(P-1).

    Raises:
        ValueError: V is not 2.
    """
    placement = request.vee("v-half")
    wait = 0 if request.pp_size % 2 else 3
    block = BuildingBlock(down=1, up=2, wait_at_first=wait, wait_at_last=1)
    order = block.repeat("v-half", placement, request.num_microbatches)
    return squeeze(order, slots=2 * ((request.pp_size + 2) // 2))

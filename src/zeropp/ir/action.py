"""An action is one instruction on one rank: what to do, for which stage, for which micro-batch."""

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Any, NamedTuple


class Kind(StrEnum):
    """What an action does. `B` is the input gradient alone; `BW` is the fused backward."""

    F = "F"
    B = "B"
    W = "W"
    BW = "BW"
    UNSHARD = "UNSHARD"
    RESHARD = "RESHARD"
    REDUCE = "REDUCE"
    SEND_F = "SEND_F"
    RECV_F = "RECV_F"
    SEND_B = "SEND_B"
    RECV_B = "RECV_B"


COMPUTE = frozenset({Kind.F, Kind.B, Kind.W, Kind.BW})
BACKWARD = frozenset({Kind.B, Kind.BW})  # produces the gradient that the previous stage waits for
WEIGHT = frozenset({Kind.W, Kind.BW})  # produces weight gradients
NEEDS_PARAMETERS = frozenset({Kind.F, Kind.B, Kind.BW})
SENDS = frozenset({Kind.SEND_F, Kind.SEND_B})
RECEIVES = frozenset({Kind.RECV_F, Kind.RECV_B})
SHARDING = frozenset({Kind.UNSHARD, Kind.RESHARD, Kind.REDUCE})


class Action(NamedTuple):
    """One instruction. `microbatch` is None for UNSHARD, RESHARD and REDUCE."""

    kind: Kind
    stage: int
    microbatch: int | None = None

    def __str__(self) -> str:
        return f"{self.stage}{self.kind}{'' if self.microbatch is None else self.microbatch}"


# of (kind, stage, microbatch), where very many are made, in a third of the time
new_action: Callable[[tuple[Any, ...]], Action] = partial(tuple.__new__, Action)

"""What a machine adds to compute times: collectives, transfers and bytes, per stage."""

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Traffic:
    """Times of collectives, in the unit of the compute costs.

    Attributes:
        gather: all-gather of one stage's parameters.
        reduce: reduce-scatter of one stage's gradients.
        transfer: how long one message keeps its channel busy (bytes / bandwidth); the latency of a
            hop, in `Costs`, comes on top and does not.
        optimizer: the optimizer's step, after the last gradient is reduced.

    Raises:
        ValueError: a time is negative or not finite.
    """

    gather: float = 0.0
    reduce: float = 0.0
    transfer: float = 0.0
    optimizer: float = 0.0

    def __post_init__(self) -> None:
        _refuse_bad_numbers(self, "traffic")


@dataclass(frozen=True)
class Bytes:
    """Sizes per stage, all equal over stages; any unit, such as bytes or GiB.

    Attributes:
        parameters: the shard of the parameters that a rank keeps.
        gathered: the full parameters while they are gathered.
        gradients: the unreduced gradients, from their first W until they are reduced.
        optimizer: optimizer state and reduced gradients, the shard that a rank keeps.
        until_backward: activations of one micro-batch from F until B.
        until_weight: what of them, with the output gradients, is held from B until W.
        message: one micro-batch's tensors between two stages.

    Raises:
        ValueError: a size is negative or not finite.
    """

    parameters: float = 0.0
    gathered: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    until_backward: float = 1.0
    until_weight: float = 1.0
    message: float = 0.0

    def __post_init__(self) -> None:
        _refuse_bad_numbers(self, "bytes")


def _refuse_bad_numbers(owner: Traffic | Bytes, what: str) -> None:
    for field in fields(owner):
        value = getattr(owner, field.name)
        if not math.isfinite(value) or value < 0:
            raise ValueError(
                f"{what}: {field.name} must be a finite number, 0 or more; got {value}"
            )

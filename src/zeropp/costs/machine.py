"""What a machine adds to compute times: collectives, transfers and bytes, per stage.

A field is one number where all stages are equal, or a tuple with one number for each stage.
"""

import math
from dataclasses import dataclass, fields

PerStage = float | tuple[float, ...]


def at_stage(value: PerStage, stage: int) -> float:
    """The value of a field at `stage`."""
    return value[stage] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Traffic:
    """Times of collectives and transfers, in the unit of the compute costs.

    Attributes:
        gather: all-gather of one stage's parameters.
        reduce: reduce-scatter of one stage's gradients.
        transfer: how long a stage's output, or its gradient, keeps a channel busy (bytes /
            bandwidth); the latency of a hop, in `Costs`, comes on top and does not.
        optimizer: the optimizer's step, after the last gradient is reduced.
        host: how long a rank computes nothing because it sends a message, or posts the receive of
            one (the overhead o of LogP, Culler et al. 1993).

    Raises:
        ValueError: a time is negative or not finite.
    """

    gather: PerStage = 0.0
    reduce: PerStage = 0.0
    transfer: PerStage = 0.0
    optimizer: float = 0.0
    host: float = 0.0

    def __post_init__(self) -> None:
        _refuse_bad_numbers(self, "traffic")

    def check_stages(self, num_stages: int) -> None:
        """Raise ValueError if a field lists another number of stages."""
        _refuse_other_stages(self, "traffic", num_stages)


@dataclass(frozen=True)
class Bytes:
    """Sizes per stage; any unit, such as bytes or GiB.

    Attributes:
        parameters: the shard of the parameters that a rank keeps.
        gathered: the full parameters while they are gathered.
        gradients: the unreduced gradients, from their first W until they are reduced.
        optimizer: optimizer state and reduced gradients, the shard that a rank keeps.
        until_backward: activations of one micro-batch from F until B.
        until_weight: what of them, with the output gradients, is held from B until W.
        message: one micro-batch's output of the stage, which travels to the next one, and whose
            gradient travels back.
        gather_staging: the flat buffer that an all-gather fills, from its start until the first
            action that needs the parameters copies them out.
        reduce_staging: the flat buffer that a reduce-scatter reads, in the dtype of the reduction,
            while it runs.
        workspace: what a stage needs beyond that while one of its actions runs; a rank reserves
            the largest of its stages.

    Raises:
        ValueError: a size is negative or not finite.
    """

    parameters: PerStage = 0.0
    gathered: PerStage = 0.0
    gradients: PerStage = 0.0
    optimizer: PerStage = 0.0
    until_backward: PerStage = 1.0
    until_weight: PerStage = 1.0
    message: PerStage = 0.0
    gather_staging: PerStage = 0.0
    reduce_staging: PerStage = 0.0
    workspace: PerStage = 0.0

    def __post_init__(self) -> None:
        _refuse_bad_numbers(self, "bytes")

    def check_stages(self, num_stages: int) -> None:
        """Raise ValueError if a field lists another number of stages."""
        _refuse_other_stages(self, "bytes", num_stages)


def _refuse_bad_numbers(owner: Traffic | Bytes, what: str) -> None:
    for field in fields(owner):
        value = getattr(owner, field.name)
        for number in value if isinstance(value, tuple) else (value,):
            if not math.isfinite(number) or number < 0:
                raise ValueError(
                    f"{what}: {field.name} must be a finite number, 0 or more; got {number}"
                )


def _refuse_other_stages(owner: Traffic | Bytes, what: str, num_stages: int) -> None:
    for field in fields(owner):
        value = getattr(owner, field.name)
        if isinstance(value, tuple) and len(value) != num_stages:
            raise ValueError(
                f"{what}: {field.name} must list {num_stages} stages (pp_size x num_chunks), "
                f"got {len(value)}"
            )

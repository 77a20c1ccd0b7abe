"""A profile: what the blocks of one model take on one kind of device, and its links.

It is measured, or filled from a model's shape (`analytic.py`); planning knows only this type.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import NamedTuple

from zeropp.ir.program import Recompute
from zeropp.planner.link import Link


@dataclass(frozen=True)
class Block:
    """What one block takes for one micro-batch, at one setting; seconds and bytes.

    Attributes:
        forward: F.
        backward: B, with whatever the setting runs again in it.
        weight: W.
        until_backward: activations from F until B.
        until_weight: what of them, with the output gradients, is held from B until W.
        message: the block's output, as it would travel to another rank.
        workspace: needed beyond that while one of its passes runs.
        flops: of F, B and W as the model needs them, without anything that is run again; 0 where
            it is not known.

    Raises:
        ValueError: a number that is negative or not finite, or an F that takes no time.
    """

    forward: float
    backward: float
    weight: float
    until_backward: float
    until_weight: float
    message: float
    workspace: float = 0.0
    flops: float = 0.0

    def __post_init__(self) -> None:
        _refuse_negative(self, Block)
        if self.forward <= 0:
            raise ValueError(f"forward must be above 0 seconds, got {self.forward}")


class Setting(NamedTuple):
    """What the times and bytes of blocks depend on."""

    micro_batch_size: int
    recompute: Recompute = Recompute.NONE


@dataclass(frozen=True)
class Precision:
    """Bytes per parameter; the defaults are bf16 compute with fp32 sums and AdamW in fp32.

    Attributes:
        parameter: as the shard is kept.
        compute: as gathered.
        reduce: of a gradient as it is summed and reduced.
        gradient: of the reduced shard.
        optimizer: state of the optimizer.

    Raises:
        ValueError: a number that is negative or not finite.
    """

    parameter: float = 4.0
    compute: float = 2.0
    reduce: float = 4.0
    gradient: float = 4.0
    optimizer: float = 8.0

    def __post_init__(self) -> None:
        _refuse_negative(self, Precision)


@dataclass(frozen=True)
class Device:
    """One device.

    Attributes:
        name: such as `A100-80G`.
        memory: bytes.
        peak_flops: FLOP/s that its vendor states for the compute dtype; 0: not known, and no MFU.

    Raises:
        ValueError: no memory, or a negative rate.
    """

    name: str
    memory: float
    peak_flops: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.memory) or self.memory <= 0:
            raise ValueError(f"memory must be above 0 bytes, got {self.memory}")
        if not math.isfinite(self.peak_flops) or self.peak_flops < 0:
            raise ValueError(f"peak_flops must be 0 or more, got {self.peak_flops}")


@dataclass(frozen=True)
class Profile:
    """One model on one kind of device.

    Attributes:
        device: what all ranks run on.
        seq_len: tokens in a sequence; every number of a block is for sequences of this length.
        kinds: for each block of the model, in forward order, the name of its kind: `embedding`,
            `layer`, `head`, or a name of its own.
        parameters: how many parameters a block of each kind has.
        blocks: for each setting that was measured, one `Block` for each kind.
        inside: the link between ranks of one node; None: not measured.
        between: the link between nodes; None: not measured.
        precision: bytes per parameter.
        optimizer: seconds of the optimizer's step for each parameter that a rank keeps.
        assumptions: how the numbers came about, in words.

    Raises:
        ValueError: the field that is empty, out of range, or lacks a kind.
    """

    device: Device
    seq_len: int
    kinds: tuple[str, ...]
    parameters: Mapping[str, int]
    blocks: Mapping[Setting, Mapping[str, Block]]
    inside: Link | None = None
    between: Link | None = None
    precision: Precision = field(default_factory=Precision)
    optimizer: float = 0.0
    assumptions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.seq_len < 1:
            raise ValueError(f"seq_len must be at least 1, got {self.seq_len}")
        if not self.kinds or not self.blocks:
            raise ValueError("kinds and blocks must not be empty")
        if not math.isfinite(self.optimizer) or self.optimizer < 0:
            raise ValueError(f"optimizer must be 0 or more seconds, got {self.optimizer}")
        for kind in dict.fromkeys(self.kinds):
            if self.parameters.get(kind, -1) < 0:
                raise ValueError(f"parameters must state 0 or more for the kind {kind!r}")
            for setting, blocks in self.blocks.items():
                if kind not in blocks:
                    raise ValueError(
                        f"blocks: no {kind!r} at micro_batch_size {setting.micro_batch_size}, "
                        f"recompute {setting.recompute}"
                    )

    @property
    def num_parameters(self) -> int:
        """Of the whole model."""
        return sum(self.parameters[kind] for kind in self.kinds)

    def block_list(self, setting: Setting) -> tuple[Block, ...]:
        """The model's blocks in forward order."""
        blocks = self.blocks[setting]
        return tuple(blocks[kind] for kind in self.kinds)


def _refuse_negative(owner: Block | Precision, kind: type[Block | Precision]) -> None:
    for named in fields(kind):
        value = getattr(owner, named.name)
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"{named.name} must be a finite number, 0 or more; got {value}")

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

    Raises:
        ValueError: a number that is negative or not finite, or an F that takes no time.
    """

    forward: float
    backward: float  # with whatever the setting runs again in it
    weight: float
    until_backward: float  # activations from F until B
    until_weight: float  # what of them, with the output gradients, is held from B until W
    message: float  # the output, as it would travel to another rank
    workspace: float = 0.0  # needed beyond that while one of its passes runs
    flops: float = 0.0  # of F, B and W, without what is run again; 0: not known

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

    Raises:
        ValueError: a number that is negative or not finite.
    """

    parameter: float = 4.0  # as the shard is kept
    compute: float = 2.0  # as gathered
    reduce: float = 4.0  # of a gradient as it is summed and reduced
    gradient: float = 4.0  # of the reduced shard
    optimizer: float = 8.0  # state of the optimizer

    def __post_init__(self) -> None:
        _refuse_negative(self, Precision)


@dataclass(frozen=True)
class Device:
    """One device.

    Raises:
        ValueError: no memory, or a negative rate.
    """

    name: str  # such as A100-80G
    memory: float  # bytes
    peak_flops: float = 0.0  # FLOP/s, as stated for the compute dtype; 0: not known, and no MFU

    def __post_init__(self) -> None:
        if not math.isfinite(self.memory) or self.memory <= 0:
            raise ValueError(f"memory must be above 0 bytes, got {self.memory}")
        if not math.isfinite(self.peak_flops) or self.peak_flops < 0:
            raise ValueError(f"peak_flops must be 0 or more, got {self.peak_flops}")


@dataclass(frozen=True)
class Profile:
    """One model on one kind of device.

    Raises:
        ValueError: the field that is empty, out of range, or lacks a kind.
    """

    device: Device
    seq_len: int  # tokens in a sequence; all numbers of blocks are for sequences of this length
    kinds: tuple[str, ...]  # of each block in forward order: embedding, layer, head or another name
    parameters: Mapping[str, int]  # how many a block of each kind has
    blocks: Mapping[Setting, Mapping[str, Block]]  # for each setting measured, one of each kind
    inside: Link | None = None  # between ranks of one node; None: not measured
    between: Link | None = None  # between nodes; None: not measured
    precision: Precision = field(default_factory=Precision)
    optimizer: float = 0.0  # seconds of the optimizer's step for each parameter that a rank keeps
    assumptions: tuple[str, ...] = ()  # how the numbers came about, in words
    trained: Mapping[str, int] = field(default_factory=dict)  # of them not frozen, if not all are

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
            if not 0 <= self.num_trained(kind) <= self.parameters[kind]:
                raise ValueError(f"trained must be from 0 to the parameters of the kind {kind!r}")
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

    def num_trained(self, kind: str) -> int:
        """How many parameters of a block of the kind are not frozen."""
        return self.trained.get(kind, self.parameters[kind])

    def block_list(self, setting: Setting) -> tuple[Block, ...]:
        """The model's blocks in forward order."""
        blocks = self.blocks[setting]
        return tuple(blocks[kind] for kind in self.kinds)


def _refuse_negative(owner: Block | Precision, kind: type[Block | Precision]) -> None:
    for named in fields(kind):
        value = getattr(owner, named.name)
        if not math.isfinite(value) or value < 0:
            raise ValueError(f"{named.name} must be a finite number, 0 or more; got {value}")

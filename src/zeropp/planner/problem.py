"""What is to be planned: a profiled model, a number of devices, and a batch."""

import math
from dataclasses import dataclass

from zeropp.planner.profile import Profile

_USABLE = 0.92  # of a device's memory; the rest is the driver's, the collectives' and fragments


@dataclass(frozen=True)
class Problem:
    """One model, one cluster, one batch.

    Attributes:
        profile: the model on the cluster's device, and the cluster's links.
        gpus: devices, all of which are used.
        gpus_per_node: devices that share a node.
        global_batch: sequences in a step.
        memory: bytes per device that a plan may use; None: 92 % of the device's memory.
        split: blocks in each stage, which fixes P x V; None: balanced.

    Raises:
        ValueError: a number out of range, nodes that are not full, or a link that is not profiled.
    """

    profile: Profile
    gpus: int
    gpus_per_node: int
    global_batch: int
    memory: float | None = None
    split: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("gpus", "gpus_per_node", "global_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.memory is not None and not (math.isfinite(self.memory) and self.memory > 0):
            raise ValueError(f"memory must be above 0 bytes, got {self.memory}")
        self._refuse_ragged_nodes()
        blocks = len(self.profile.kinds)
        if self.split is not None and (sum(self.split) != blocks or min(self.split) < 1):
            raise ValueError(
                f"split must list positive sizes that sum to the model's {blocks} blocks, "
                f"got {list(self.split)} (sum {sum(self.split)})"
            )
        if self.nodes > 1 and self.profile.between is None:
            raise ValueError(
                f"gpus: the profile has no link between nodes, got {self.gpus} GPUs on "
                f"{self.nodes} nodes; use at most {self.gpus_per_node}, or profile on two nodes"
            )
        if min(self.gpus, self.gpus_per_node) > 1 and self.profile.inside is None:
            raise ValueError(
                "gpus_per_node: the profile has no link inside a node; profile on two GPUs of one, "
                "or use gpus_per_node 1"
            )

    def _refuse_ragged_nodes(self) -> None:
        full, left = divmod(self.gpus, self.gpus_per_node)
        if full and left:
            size = self.gpus_per_node
            raise ValueError(
                f"gpus must be a multiple of gpus_per_node ({size}), got {self.gpus}; "
                f"use {full * size} or {(full + 1) * size}"
            )

    @property
    def nodes(self) -> int:
        """How many nodes the devices fill."""
        return -(-self.gpus // self.gpus_per_node)

    @property
    def usable(self) -> float:
        """Bytes per device that a plan may use."""
        return self.memory if self.memory is not None else _USABLE * self.profile.device.memory

    @property
    def flops(self) -> float:
        """FLOPs of a step as the model needs them; 0 where the profile does not say."""
        setting = next(iter(self.profile.blocks))
        one = sum(block.flops for block in self.profile.block_list(setting))
        return one / setting.micro_batch_size * self.global_batch

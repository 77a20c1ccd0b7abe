"""A schedule in one of two runtimes: ours, or torch.distributed.pipelining's."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch_peer import PEERS
from zeropp.costs import Costs
from zeropp.plan import Plan


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        name: one of `PEERS` for torch's runtime, else one of our generators.
        V: stages per rank.
        seam: of ours, where there is a choice.
        slots: of ours, what a refined order may hold; None: what the schedule's own holds.
    """

    name: str
    V: int
    seam: str | None = None
    slots: int | None = None

    @property
    def ours(self) -> bool:
        """Whether our runtime runs it."""
        return self.name not in PEERS

    @property
    def follows_times(self) -> bool:
        """Whether its order is one to be made for the measured times."""
        return self.seam == "carry" or self.slots is not None

    @property
    def title(self) -> str:
        """For tables."""
        return f"{'' if self.ours else 'torch '}{self.name}{f' {self.seam}' if self.seam else ''}"

    def plan(self, P: int, B: int, costs: Costs | None = None) -> Plan:
        """Ours; the peers' orders do not depend on costs."""
        known = costs if self.name == "zeropp" else None
        refine = self.slots is not None
        return Plan(
            P, self.V, B, self.name, seam=self.seam, slots=self.slots, refine=refine, costs=known
        )


def torch_sides(P: int, B: int, chunks: Sequence[int]) -> list[Side]:
    """Every schedule that torch has for these sizes."""
    return [
        Side(name, V)
        for name, peer in PEERS.items()
        if peer.fewest * P <= B
        for V in ([peer.chunks] if peer.chunks else chunks)
    ]

"""A building block: the ticks of one micro-batch's F and B on a vee; repeated, it is a schedule.

Source: "Pipeline Parallelism with Controllable Memory", Qi et al. 2024, arXiv 2405.15362. Our
derivation. Each pass of a chunk takes one tick; a new micro-batch enters every six ticks, as each
rank owes it six passes (F, B and W of two chunks). The block fixes how many ticks pass per hop:

    F of chunk 0 and B of chunk 1   travel from rank 0 to rank P-1   `down` ticks per hop
    F of chunk 1 and B of chunk 0   travel from rank P-1 to rank 0   `up` ticks per hop

    down=1, up=2, P=3, no waits at the turns (F0: the forward of chunk 0)
    rank 0  F0  .  .  .  .  .  . F1 B1  .  .  .  .  .  . B0
    rank 1   . F0  .  .  . F1  .  .  . B1  .  .  . B0  .  .
    rank 2   .  . F0 F1  .  .  .  .  .  . B1 B0  .  .  .  .

Memory: on rank p, chunk 0 lives from F0 to B0 and chunk 1 from F1 to B1,

    (P-1-p)(down+up) + (P-1)(down+up)  and  p(down+up),  in all 2(P-1)(down+up) ticks plus a few

on every rank alike. With one micro-batch per six ticks (P-1)(down+up)/3 slots are held, that is
about P(down+up)/6 micro-batches: P/3, P/2 and P for down+up = 2, 3 and 6.

Collisions: two passes of a rank may not fall on one tick modulo 6. F0 and B1 are equally far apart
on every rank, and so are F1 and B0; the distances between these pairs change by down+up per rank.
Waits at the turns keep all four apart; W takes the two ticks left.
"""

from dataclasses import dataclass

from zeropp.ir.action import Action, Kind
from zeropp.ir.placement import Placement
from zeropp.ir.schedule import Schedule

INTERVAL = 6


@dataclass(frozen=True)
class BuildingBlock:
    """The hops and turns of one micro-batch, in ticks.

    Attributes:
        down: per hop away from rank 0.
        up: per hop towards rank 0.
        wait_at_first: between F and B of the last stage, on rank 0.
        wait_at_last: on rank P-1, between F of stages P-1 and P, and between B of P and P-1.
    """

    down: int
    up: int
    wait_at_first: int = 0
    wait_at_last: int = 0

    def ticks(self, pp_size: int, rank: int) -> dict[tuple[Kind, int], int]:
        """When (kind, chunk) of micro-batch 0 runs on `rank`."""
        below, above = rank, pp_size - 1 - rank
        turn = (pp_size - 1) * self.down + 1 + self.wait_at_last
        first = turn + (pp_size - 1) * self.up + 1 + self.wait_at_first
        last = first + (pp_size - 1) * self.down + 1 + self.wait_at_last
        return {
            (Kind.F, 0): below * self.down,
            (Kind.F, 1): turn + above * self.up,
            (Kind.B, 1): first + below * self.down,
            (Kind.B, 0): last + above * self.up,
        }

    def repeat(self, name: str, placement: Placement, num_microbatches: int) -> Schedule:
        """F and B of every micro-batch in the order of their ticks; W is left out."""
        return Schedule(
            name,
            placement,
            (num_microbatches,),
            tuple(
                self._rank_order(placement, rank, num_microbatches)
                for rank in range(placement.pp_size)
            ),
        )

    def _rank_order(
        self, placement: Placement, rank: int, num_microbatches: int
    ) -> tuple[Action, ...]:
        ticks = self.ticks(placement.pp_size, rank)
        timed = {
            Action(kind, placement.stage_of(rank, chunk), m): tick + INTERVAL * m
            for (kind, chunk), tick in ticks.items()
            for m in range(num_microbatches)
        }
        return tuple(sorted(timed, key=timed.__getitem__))

"""What is compared on the cluster: sides, batches, link rates, mappings of ranks to hosts.

The sizes are in the proportion of a transformer layer with h = 4096 and micro-batches of 2048
tokens: an activation of 17 messages (34sbh bytes of 2sbh), parameters of 24 (24h^2 bytes).
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from cluster.hosts import Cluster
from support.emulated import EmulatedBlock
from support.sides import Side
from zeropp.build import program_of
from zeropp.costs import Costs
from zeropp.plan import Plan
from zeropp.simulate import simulate

D, V = 2, 4  # ranks in a shard group, and on a host; blocks of a rank
TIMES = (0.015, 0.015, 0.015)  # seconds of a block's F, B and W
WIDTH, ROWS, COPIES = 440, 18, 16
PARAMETER_BYTES = 4 * WIDTH**2
MESSAGE_BYTES = 4 * WIDTH * ROWS
KEPT_BYTES = 2 * V * PARAMETER_BYTES / D  # shards of parameters and gradients, between steps
MIB = 2**20

ZERO_3 = Side("1f1b", 1, shard="microbatch")
ZERO_2 = Side("1f1b", 1, shard="step")
BREADTH_FIRST = Side("breadth-first", V)


class Mapping(StrEnum):
    """Where the ranks of a shard group are; pipelines are across hosts in both.

    inside    host h: both ranks of stage rank h      gathers stay on a host, every message leaves
    across    host h: two neighbours of a pipeline    gathers leave, every other message does
    """

    INSIDE = "inside"
    ACROSS = "across"


@dataclass(frozen=True)
class Batch:
    """One number of micro-batches, B."""

    size: int
    steps: int  # measured at each rate
    rates: tuple[float | None, ...]  # of the links, in Mbit/s; None: as fast as the machine


@dataclass(frozen=True)
class Job:
    """What the ranks of a cluster of P hosts measure."""

    cluster: Cluster
    P: int
    batches: tuple[Batch, ...]


def sides(P: int, B: int) -> list[Side]:
    """Everything that exists for these sizes; ZeroPP, with every unit size up to B, last."""
    found = [ZERO_3, ZERO_2, BREADTH_FIRST, Side("LoopedBFS", V)]
    if B % P == 0:
        found += [Side("interleaved-1f1b", V, shard="step"), Side("Interleaved1F1B", V)]
    if B >= P:  # which torch's 1F1B asks for
        found += [Side("1F1B", 1, shard=shard) for shard in ("microbatch", "step")]
    units = sorted({min(U, B) for U in (P, 2 * P - 1, B)})
    zeropp = (Side("zeropp", V, seam, unit_size=U) for seam in ("drain", "carry") for U in units)
    return [*found, *zeropp]


def blocks(P: int) -> list[EmulatedBlock]:
    """The model."""
    return [EmulatedBlock(TIMES, i == 0, WIDTH, COPIES) for i in range(P * V)]


def case_name(side: Side) -> str:
    """For tables."""
    if side.unit_size is not None:
        return f"{side.name} {side.seam} U={side.unit_size}"
    return f"{'zeropp' if side.ours else 'torch'} {side.name} {side.shard}"


def rate_name(mbit: float | None) -> str:
    """For tables."""
    return "unlimited" if mbit is None else f"{mbit:g} Mbit/s"


def costs_of(side: Side, P: int) -> Costs:
    """Of its stages, with free links."""
    return Costs.uniform(P, side.V, *(V * span for span in TIMES))


def plan_of(side: Side, P: int, B: int) -> Plan:
    """The side's plan."""
    return side.plan(P, B, costs_of(side, P), D)


def predicted_s(side: Side, mapping: Mapping, P: int, B: int, mbit: float | None) -> float | None:
    """The simulated step; None for torch's.

    Links are counted as if nothing shared them but the ranks of a host: gathers and messages do not
    slow each other, and nothing but compute and links takes time. gloo's reduce-scatter sends twice
    what a gather does.
    """
    if not side.ours:
        return None
    costs: Any = costs_of(side, P)
    byte_s = 0.0 if mbit is None else 8 / (mbit * 1e6)
    if mapping is Mapping.INSIDE:  # both ranks of a host send at once
        costs = replace(costs, transfer=D * MESSAGE_BYTES * byte_s)
    else:  # D ranks of a host gather, 1/D each
        gather = PARAMETER_BYTES * V / side.V * byte_s
        transfer = MESSAGE_BYTES * byte_s
        costs = replace(costs, gather=gather, reduce=2 * gather, transfer=transfer)
    return round(simulate(program_of(plan_of(side, P, B)), costs).makespan, 4)

"""What is compared on the cluster: sides, batches, rates, mappings; and where ZeroPP wins there.

The sizes are in the proportion of a transformer layer with h = 4096 and micro-batches of 2048
tokens: an activation of 17 messages (34sbh bytes of 2sbh), parameters of 24 (24h^2 bytes).
"""

from collections import defaultdict
from dataclasses import dataclass, replace
from enum import StrEnum

from support.claim import Figure, Row
from support.hosts import Cluster
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
    zeropp = [Side("zeropp", V, seam, unit_size=U) for seam in ("drain", "carry") for U in units]
    zeropp += [Side("zeropp", V, "carry")]  # the unit that is chosen for the link
    return [*found, *zeropp, Side("zeropp", V, "eager", unit_size=units[0])]


def case_name(side: Side) -> str:
    """For tables."""
    if side.seam is not None:
        unit = "chosen" if side.unit_size is None else side.unit_size
        return f"{side.title} U={unit}"
    return f"{'zeropp' if side.ours else 'torch'} {side.name} {side.shard}"


def rate_name(mbit: float | None) -> str:
    """For tables."""
    return "unlimited" if mbit is None else f"{mbit:g} Mbit/s"


def plan_of(side: Side, mapping: Mapping, P: int, B: int, mbit: float | None) -> Plan:
    """The side's plan, made for its links as `zeropp profile` would find them.

    Nothing but compute and links takes time, and gathers and messages do not slow each other.
    gloo's reduce-scatter sends twice what a gather does.
    """
    costs = Costs.uniform(P, side.V, *(V * span for span in TIMES))
    byte_s = 0.0 if mbit is None else 8 / (mbit * 1e6)
    if mapping is Mapping.INSIDE:  # both ranks of a host send at once
        costs = replace(costs, transfer=D * MESSAGE_BYTES * byte_s)
    else:  # D ranks of a host gather, 1/D each
        gather = PARAMETER_BYTES * V / side.V * byte_s
        transfer = MESSAGE_BYTES * byte_s
        costs = replace(costs, gather=gather, reduce=2 * gather, transfer=transfer)
    return side.plan(P, B, costs, D)


def predicted_s(side: Side, plan: Plan) -> float | None:
    """The simulated step; None for torch's."""
    if not side.ours or plan.costs is None:
        return None
    return round(simulate(program_of(plan), plan.costs).makespan, 4)


GAINS = {case_name(BREADTH_FIRST): 1.30, case_name(ZERO_3): 1.68}  # in throughput
MEMORY = {case_name(ZERO_2): 0.90, case_name(ZERO_3): 0.90}
AS_FAST = 1.01  # less is within what repeated runs differ by


def by_place(rows: list[Row]) -> dict[str, dict[str, Row]]:
    """By case, what was measured side by side."""
    places: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        places[f"{row['mapping']} B={row['B']} {row['rate']}"][row["case"]] = row
    return places


def verdicts(rows: list[Row]) -> list[Row]:
    """For every place, the fastest ZeroPP over each other case, and what it does not win over."""
    return [_verdict(place, found) for place, found in by_place(rows).items()]


def _verdict(place: str, rows: dict[str, Row]) -> Row:
    own = {case: row["step_s"] for case, row in rows.items() if " U=" in case}
    best = min(own, key=lambda case: own[case])
    others = [case for case in rows if case not in own]
    gains = {case: rows[case]["step_s"] / own[best] for case in others}
    memory = {case: rows[best]["peak_MiB"] / rows[case]["peak_MiB"] for case in others}
    missed = {f"throughput over {c}": gains[c] for c in GAINS if gains[c] < GAINS[c]}
    missed |= {f"memory over {c}": memory[c] for c in MEMORY if memory[c] > MEMORY[c]}
    breadth_first = rows[case_name(BREADTH_FIRST)]["step_s"]
    return {
        "verdict": place,
        "fastest_zeropp": best,
        "throughput_over": _rounded(gains),
        "memory_of": _rounded(memory),
        "does_not_win_over": _rounded({c: gain for c, gain in gains.items() if gain < AS_FAST}),
        "claims_missed": _rounded(missed),
        "zeropp_over_breadth_first": _rounded({c: breadth_first / s for c, s in own.items()}),
    }


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in values.items()}


def figures(rows: list[Row], mapping: Mapping, batch: int, rate: float | None) -> list[Figure]:
    """The claims, at one place, of the drained order with a unit of all its micro-batches."""
    found = by_place(rows)[f"{mapping} B={batch} {rate_name(rate)}"]
    ours, where = found[f"zeropp drain U={batch}"], f"shard group {mapping} hosts, B={batch}"
    figures = []
    for peer, gain in GAINS.items():
        name = f"throughput over that of {peer}: {where}, {rate_name(rate)}"
        value = found[peer]["step_s"] / ours["step_s"]
        figures.append(Figure(name, value, gain, "times", at_least=True))
    for peer, share in MEMORY.items():
        name = f"peak memory over that of {peer}: {where}, {rate_name(rate)}"
        figures.append(Figure(name, ours["peak_MiB"] / found[peer]["peak_MiB"], share, "times"))
    return figures

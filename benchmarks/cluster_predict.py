"""Plans of this library's cases, and how long their steps should take by simulation.

Links are counted as if nothing shared them but the ranks of a host: gathers and messages do not
slow each other, and nothing but compute and links takes time. gloo's reduce-scatter sends twice
what a gather does.
"""

from dataclasses import replace

from cluster_block import MESSAGE_BYTES, PARAMETER_BYTES
from cluster_cases import TIMES, Case, D, Mapping, V
from zeropp.costs import Costs
from zeropp.plan import Plan
from zeropp.simulate import simulate


def plan_of(case: Case, pp_size: int, batch: int) -> Plan:
    """The plan of a case of this library."""
    return Plan(
        pp_size,
        case.num_chunks,
        batch,
        case.schedule,
        case.unit_size,
        case.seam,
        dp_shard=D,
        shard=case.shard,
        costs=_costs(case, pp_size),
    )


def _costs(case: Case, pp_size: int) -> Costs:
    spans = (TIMES.forward, TIMES.backward, TIMES.weight)
    return Costs.uniform(pp_size, case.num_chunks, *(V * span for span in spans))


def predicted_s(
    case: Case, mapping: Mapping, pp_size: int, batch: int, mbit: float | None
) -> float | None:
    """The simulated step; None for torch's."""
    if case.runtime != "zeropp":
        return None
    plan = plan_of(case, pp_size, batch)
    program = plan.lower(plan.compute, sharded=True)
    made = simulate(program, replace(_costs(case, pp_size), **_traffic(case, mapping, mbit)))
    return round(made.makespan, 4)


def _traffic(case: Case, mapping: Mapping, mbit: float | None) -> dict[str, float]:
    if mbit is None:
        return {}
    byte_s = 8 / (mbit * 1e6)
    if mapping is Mapping.INSIDE:  # both ranks of a host send at once
        return {"transfer": D * MESSAGE_BYTES * byte_s}
    gather = PARAMETER_BYTES * V / case.num_chunks * byte_s  # D ranks of a host, 1/D each
    return {"gather": gather, "reduce": 2 * gather, "transfer": MESSAGE_BYTES * byte_s}

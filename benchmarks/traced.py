"""Where the time of a step of our runtime goes, as its trace tells."""

from zeropp.measure.trace import Trace
from zeropp.runtime.mesh import pipelines
from zeropp.runtime.pipeline import Pipeline


def shares(pipe: Pipeline, trace: Trace) -> dict[str, float]:
    """Of P x makespan: compute, and idle time by cause; collective, the same on all ranks."""
    step = trace.gather(pipe.plan.placement, "", pipelines(pipe.mesh)[0])
    idle = step.idle_ratios()
    found = {"compute": 1 - sum(idle.values()), **idle}
    return {name: round(share, 4) for name, share in found.items() if share >= 5e-5}

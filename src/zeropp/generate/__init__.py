"""Schedules by name; each generator is a pure function from a `Request` to a `Schedule`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from zeropp.costs import Costs
from zeropp.generate.automatic import Budget, automatic
from zeropp.generate.breadth_first import breadth_first
from zeropp.generate.dualpipe_v import dualpipe_v
from zeropp.generate.gis import gis
from zeropp.generate.gpipe import gpipe
from zeropp.generate.interleaved import interleaved_1f1b
from zeropp.generate.one_forward_one_backward import one_forward_one_backward
from zeropp.generate.refine import refined
from zeropp.generate.request import Request
from zeropp.generate.v_half import v_half
from zeropp.generate.v_min import v_min
from zeropp.generate.zb_h1 import zb_h1
from zeropp.generate.zb_h2 import zb_h2
from zeropp.generate.zb_v import zb_v
from zeropp.generate.zeropp import zeropp
from zeropp.ir.action import collector_paused
from zeropp.ir.schedule import Schedule

Auto = Literal["auto"]


@dataclass(frozen=True)
class Generator:
    """A named generator and, in one line, what its schedule is for.

    Attributes:
        options: the knobs it takes beside P, V and B.
        chunks: the V that it takes; None: any.
    """

    make: Callable[[Request], Schedule]
    summary: str
    options: frozenset[str] = frozenset()
    chunks: frozenset[int] | None = None


_ONE, _TWO = frozenset({1}), frozenset({2})

GENERATORS: Mapping[str, Generator] = MappingProxyType(
    {
        "zeropp": Generator(
            zeropp,
            "units of U micro-batches, blockwise, split backward, W staggered into the bubble",
            frozenset({"unit_size", "seam", "slots"}),
        ),
        "gpipe": Generator(
            gpipe, "all forwards, then all backwards; holds the whole batch", chunks=_ONE
        ),
        "1f1b": Generator(
            one_forward_one_backward,
            "one forward, one backward; holds P micro-batches",
            chunks=_ONE,
        ),
        "interleaved-1f1b": Generator(
            interleaved_1f1b, "1F1B over V chunks: bubble / V, a little more memory"
        ),
        "breadth-first": Generator(
            breadth_first, "chunk by chunk over the whole batch: fewest gathers, most memory"
        ),
        "zb-h1": Generator(
            zb_h1, "1F1B's memory, split backward: a third of its bubble", chunks=_ONE
        ),
        "zb-h2": Generator(
            zb_h2, "no idle time within a rank's span, for twice 1F1B's memory", chunks=_ONE
        ),
        "zb-v": Generator(
            zb_v, "no idle time within a rank's span, in 1F1B's memory; a vee", chunks=_TWO
        ),
        "v-half": Generator(v_half, "half of 1F1B's memory and bubble; a vee", chunks=_TWO),
        "v-min": Generator(
            v_min, "a third of 1F1B's memory, two thirds of its bubble; a vee", chunks=_TWO
        ),
        "gis": Generator(
            gis, "interleaved 1F1B with split backward: less bubble, P micro-batches' memory"
        ),
        "dualpipe-v": Generator(
            dualpipe_v, "forwards paired with backwards to overlap; a vee", chunks=_TWO
        ),
    }
)


@collector_paused()
def generate(
    name: str,
    pp_size: int,
    num_chunks: int,
    num_microbatches: int,
    *,
    unit_size: int | Auto | None = None,
    seam: str | None = None,
    slots: int | Auto | None = None,
    costs: Costs | None = None,
    budget: Budget | None = None,
    refine: bool = False,
) -> Schedule:
    """Make the schedule called `name`.

    Args:
        name: a key of `GENERATORS`.
        pp_size: P.
        num_chunks: V.
        num_microbatches: B.
        unit_size: U, micro-batches per unit; `auto`: the best within `budget`.
        seam: `carry` or `drain`.
        slots: most activations (one chunk of one micro-batch each) that a rank may hold; `auto`:
            those that `budget` holds.
        costs: what the schedule is made for; generators that do not go by times ignore it.
        budget: memory for activations, which `auto` needs.
        refine: improve the order for `costs`, whichever schedule it is; within `slots`, by default
            those that the schedule holds.

    Raises:
        ValueError: unknown name, a size out of range, a knob that the schedule does not have, or a
            budget that is missing, superfluous or too small.
    """
    if name not in GENERATORS:
        raise ValueError(f"unknown schedule {name!r}; choose one of {', '.join(GENERATORS)}")
    generator = GENERATORS[name]
    for option, value in (("unit_size", unit_size), ("seam", seam), ("slots", slots)):
        limits = refine and option == "slots" and value != "auto"
        if value is not None and option not in generator.options and not limits:
            refining = ", or refine the schedule" if option == "slots" else ""
            raise ValueError(f"{option} is not a knob of {name}; leave it out{refining}")
    fixed_unit = None if unit_size == "auto" else unit_size
    fixed_slots = None if slots == "auto" else slots
    sizes = (pp_size, num_chunks, num_microbatches)
    request = Request(*sizes, fixed_unit, seam, fixed_slots, costs)
    chooses = slots == "auto" or (unit_size == "auto" and slots is None)
    if chooses != (budget is not None):
        wanted = "slots auto needs a budget" if chooses else "budget goes with slots auto"
        raise ValueError(f"budget: {wanted} (bytes for activations, and bytes of a slot)")
    if unit_size == "auto" or budget is not None:
        made = automatic(request, budget or Budget(memory=float(fixed_slots or 0), slot=1.0))
    else:
        made = generator.make(request)
    times = costs or Costs.uniform(pp_size, num_chunks)
    return refined(made, times, fixed_slots) if refine else made


__all__ = ["GENERATORS", "Budget", "Generator", "Request", "generate"]

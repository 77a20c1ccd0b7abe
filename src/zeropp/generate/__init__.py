"""Schedules by name; each generator is a pure function from a `Request` to a `Schedule`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from zeropp.generate.breadth_first import breadth_first
from zeropp.generate.forward_only import forward_only
from zeropp.generate.gpipe import gpipe
from zeropp.generate.interleaved import interleaved_1f1b
from zeropp.generate.one_forward_one_backward import one_forward_one_backward
from zeropp.generate.request import Request
from zeropp.generate.zeropp import zeropp
from zeropp.ir.schedule import Schedule


@dataclass(frozen=True)
class Generator:
    """A named generator and, in one line, what its schedule is for.

    Attributes:
        options: the knobs it takes beside P, V and B.
        several_chunks: whether V may be above 1.
    """

    make: Callable[[Request], Schedule]
    summary: str
    options: frozenset[str] = frozenset()
    several_chunks: bool = True


GENERATORS: Mapping[str, Generator] = MappingProxyType(
    {
        "zeropp": Generator(
            zeropp,
            "units of U micro-batches, blockwise, split backward, W staggered into the bubble",
            frozenset({"unit_size", "seam"}),
        ),
        "gpipe": Generator(
            gpipe, "all forwards, then all backwards; holds the whole batch", several_chunks=False
        ),
        "1f1b": Generator(
            one_forward_one_backward,
            "one forward, one backward; holds P micro-batches",
            several_chunks=False,
        ),
        "interleaved-1f1b": Generator(
            interleaved_1f1b, "1F1B over V chunks: bubble / V, a little more memory"
        ),
        "breadth-first": Generator(
            breadth_first, "chunk by chunk over the whole batch: fewest gathers, most memory"
        ),
    }
)


def generate(
    name: str,
    pp_size: int,
    num_chunks: int,
    num_microbatches: int,
    *,
    unit_size: int | None = None,
    seam: str | None = None,
) -> Schedule:
    """Make the schedule called `name`.

    Raises:
        ValueError: unknown name, a size out of range, or a knob that the schedule does not have.
    """
    if name not in GENERATORS:
        raise ValueError(f"unknown schedule {name!r}; choose one of {', '.join(GENERATORS)}")
    generator = GENERATORS[name]
    for option, value in (("unit_size", unit_size), ("seam", seam)):
        if value is not None and option not in generator.options:
            raise ValueError(f"{option} is not a knob of {name}; leave it out")
    return generator.make(Request(pp_size, num_chunks, num_microbatches, unit_size, seam))


__all__ = ["GENERATORS", "Generator", "Request", "forward_only", "generate"]

"""The schedules by name: what makes each, and what is known of it before it is made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from types import MappingProxyType

import zeropp.generate.blockwise as blockwise
import zeropp.generate.dualpipe as dualpipe
import zeropp.generate.loop as loop
import zeropp.generate.vee as vee
from zeropp.generate.request import Request
from zeropp.ir.placement import Shape
from zeropp.ir.schedule import Schedule

Count = Callable[[Request], int]


@dataclass(frozen=True)
class Generator:
    """A named generator, and the facts about its schedules that need no schedule.

    Attributes:
        make: a pure function; `generate` has checked the number of chunks and the knobs.
        summary: in one line, what its schedule is for.
        options: the knobs it takes beside P, V and B.
        chunks: the V that it takes; None: any.
        instead: the schedule that takes the other V.
        shape: of its placement.
        fused: whether every B runs as one with its W.
        held: at most so many slots are in use on the first rank; None: all V x B, as in an order
            that never repeats.
        first_turn: at least so many micro-batches run in a chunk before the next chunk's first.
        fewest_units: at least so many scheduling units are made.
        by_times: whether `costs` change what is made.
    """

    make: Callable[[Request], Schedule]
    summary: str
    options: frozenset[str] = frozenset()
    chunks: frozenset[int] | None = None
    instead: str | None = None
    shape: Shape = Shape.LOOP
    fused: bool = False
    held: Count | None = None
    first_turn: Count = lambda request: 1
    fewest_units: Count = lambda request: 1
    by_times: Callable[[Request], bool] = lambda request: False

    def period(self, request: Request) -> int | None:
        """Micro-batches after which the order repeats: U, by default P; None: it does not."""
        return (request.unit_size or request.pp_size) if self.held else None

    def most_slots(self, request: Request) -> int:
        """No more activations, one chunk of one micro-batch each, are held by the first rank."""
        everything = request.num_chunks * request.num_microbatches
        known = everything if self.held is None else self.held(request)
        return min(request.slots or known, everything)

    def refuse_chunks(self, name: str, num_chunks: int) -> None:
        """Raise ValueError if `name`, this schedule's, does not take so many."""
        if self.chunks is None or num_chunks in self.chunks:
            return
        wanted = " or ".join(map(str, sorted(self.chunks)))
        shape = " (a vee)" if self.shape is Shape.VEE else ""
        instead = f"; with several chunks use {self.instead}" if self.instead else ""
        raise ValueError(
            f"num_chunks must be {wanted} for {name}{shape}, got {num_chunks}{instead}"
        )


_one_chunk = partial(Generator, chunks=frozenset({1}))
_vee = partial(Generator, chunks=frozenset({2}), shape=Shape.VEE)

GENERATORS: Mapping[str, Generator] = MappingProxyType(
    {
        "zeropp": Generator(
            blockwise.zeropp,
            "units of U micro-batches, blockwise, split backward, W staggered into the bubble",
            frozenset({"unit_size", "seam", "slots"}),
            held=blockwise.held,
            first_turn=blockwise.first_unit,
            fewest_units=blockwise.fewest_units,
            by_times=blockwise.carries,
        ),
        "gpipe": _one_chunk(
            loop.gpipe,
            "all forwards, then all backwards; holds the whole batch",
            instead="breadth-first",
            fused=True,
        ),
        "1f1b": _one_chunk(
            loop.one_forward_one_backward,
            "one forward, one backward; holds P micro-batches",
            instead="interleaved-1f1b",
            fused=True,
            held=partial(loop.held, ahead=1),
        ),
        "interleaved-1f1b": Generator(
            loop.interleaved_1f1b,
            "1F1B over V chunks: bubble / V, a little more memory",
            fused=True,
            held=partial(loop.held, ahead=2),
            first_turn=loop.first_turn,
        ),
        "breadth-first": Generator(
            loop.breadth_first,
            "chunk by chunk over the whole batch: fewest gathers, most memory",
            fused=True,
            first_turn=attrgetter("num_microbatches"),
        ),
        "zb-h1": _one_chunk(
            loop.zb_h1,
            "1F1B's memory, split backward: a third of its bubble",
            instead="gis",
            held=partial(loop.held, ahead=1),
        ),
        "zb-h2": _one_chunk(
            loop.zb_h2,
            "no idle time within a rank's span, for twice 1F1B's memory",
            instead="gis",
            held=partial(loop.held, ahead=2),
        ),
        "zb-v": _vee(
            vee.zb_v,
            "no idle time within a rank's span, in 1F1B's memory; a vee",
            held=partial(vee.held, ticks=6),
        ),
        "v-half": _vee(
            vee.v_half, "half of 1F1B's memory and bubble; a vee", held=partial(vee.held, ticks=3)
        ),
        "v-min": _vee(
            vee.v_min,
            "a third of 1F1B's memory, two thirds of its bubble; a vee",
            held=partial(vee.held, ticks=2),
        ),
        "gis": Generator(
            loop.gis,
            "interleaved 1F1B with split backward: less bubble, P micro-batches' memory",
            held=partial(loop.held, ahead=1),
            first_turn=loop.first_turn,
        ),
        "dualpipe-v": _vee(
            dualpipe.dualpipe_v,
            "forwards paired with backwards to overlap; a vee",
            held=dualpipe.held,
        ),
    }
)

"""The schedules by name: what makes each, and what is known of it before it is made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from types import MappingProxyType

import zeropp.generate.blockwise as blockwise
import zeropp.generate.dualpipe as dualpipe
import zeropp.generate.loop as loop
import zeropp.generate.timed_vee as timed_vee
import zeropp.generate.vee as vee
from zeropp.generate.request import Request
from zeropp.ir.action import Kind
from zeropp.ir.placement import Shape
from zeropp.ir.schedule import Schedule

Count = Callable[[Request], int]


@dataclass(frozen=True)
class Generator:
    """A named generator, and the facts about its schedules that need no schedule.

    Attributes:
        name: what users call it.
        make: a pure function; `generate` has checked the number of chunks and the knobs.
        summary: in one line, what its schedule is for.
        options: the knobs it takes beside P, V and B.
        chunks: the V that it takes; None: any.
        instead: the schedule that takes the other V.
        shape: of its placement.
        fused: whether every B runs as one with its W.
        held: at most so many slots are in use on the first rank; None: all V x B, as in an order
            that never repeats.
        enough: with so many slots it can always be made, where they are a knob.
        first_turn: at least so many micro-batches run in a chunk before the next chunk's first.
        fewest_units: at least so many scheduling units are made.
        by_times: whether `costs` change what is made.
        by_gathers: whether those of gathers and reductions do, and how many stages are resident.
    """

    name: str
    make: Callable[[Request], Schedule]
    summary: str
    options: frozenset[str] = frozenset()
    chunks: frozenset[int] | None = None
    instead: str | None = None
    shape: Shape = Shape.LOOP
    fused: bool = False
    held: Count | None = None
    enough: Count = lambda request: request.num_chunks
    first_turn: Count = lambda request: 1
    fewest_units: Count = lambda request: 1
    by_times: Callable[[Request], bool] = lambda request: False
    by_gathers: Callable[[Request], bool] = lambda request: False

    def period(self, request: Request) -> int | None:
        """Micro-batches after which the order repeats: U, by default P; None: it does not."""
        return (request.unit_size or request.pp_size) if self.held else None

    def most_slots(self, request: Request) -> int:
        """No more activations, one chunk of one micro-batch each, are held by the first rank."""
        everything = request.num_chunks * request.num_microbatches
        known = everything if self.held is None else self.held(request)
        return min(request.slots or known, everything)

    def refuse_chunks(self, num_chunks: int) -> None:
        """Raise ValueError if the schedule does not take so many."""
        if self.chunks is None or num_chunks in self.chunks:
            return
        wanted = " or ".join(map(str, sorted(self.chunks)))
        shape = " (a vee)" if self.shape is Shape.VEE else ""
        instead = f"; with several chunks use {self.instead}" if self.instead else ""
        raise ValueError(
            f"num_chunks must be {wanted} for {self.name}{shape}, got {num_chunks}{instead}"
        )


_ONE_CHUNK, _TWO_CHUNKS = frozenset({1}), frozenset({2})


def _alternating(
    name: str, summary: str, backward: Kind, ahead: int, delay: int = 0, instead: str | None = None
) -> Generator:
    """One forward, one backward (the table in loop.py); with an `instead`, in one chunk only."""
    return Generator(
        name,
        partial(loop.alternating, name, backward, ahead, delay),
        summary,
        chunks=_ONE_CHUNK if instead else None,
        instead=instead,
        fused=backward is Kind.BW,
        held=partial(loop.held, ahead=ahead),
        first_turn=loop.first_turn,
    )


def _squeezed(name: str, block_of: Callable[[int], vee.BuildingBlock], summary: str) -> Generator:
    """A vee's building block, repeated and squeezed."""
    return Generator(
        name,
        partial(vee.squeezed, name, block_of),
        summary,
        chunks=_TWO_CHUNKS,
        shape=Shape.VEE,
        held=lambda request: block_of(request.pp_size).slots(request.pp_size),
    )


_ALL = (
    Generator(
        "zeropp",
        blockwise.zeropp,
        "units of U micro-batches, blockwise, split backward, W staggered into the bubble",
        frozenset({"unit_size", "seam", "slots"}),
        held=blockwise.held,
        first_turn=blockwise.first_unit,
        fewest_units=blockwise.fewest_units,
        by_times=blockwise.carries,
        by_gathers=blockwise.carries,
    ),
    Generator(
        "gpipe",
        partial(loop.fill_and_drain, "gpipe"),
        "all forwards, then all backwards; holds the whole batch",
        chunks=_ONE_CHUNK,
        instead="breadth-first",
        fused=True,
    ),
    _alternating(
        "1f1b",
        "one forward, one backward; holds P micro-batches",
        Kind.BW,
        ahead=1,
        instead="interleaved-1f1b",
    ),
    _alternating(
        "interleaved-1f1b", "1F1B over V chunks: bubble / V, a little more memory", Kind.BW, 2
    ),
    Generator(
        "breadth-first",
        partial(loop.fill_and_drain, "breadth-first"),
        "chunk by chunk over the whole batch: fewest gathers, most memory",
        fused=True,
        first_turn=attrgetter("num_microbatches"),
    ),
    _alternating(
        "zb-h1", "1F1B's memory, split backward: a third of its bubble", Kind.B, 1, 1, "gis"
    ),
    _alternating(
        "zb-h2", "no idle time within a rank's span, for twice 1F1B's memory", Kind.B, 2, 2, "gis"
    ),
    _squeezed("zb-v", vee.zb_v, "no idle time within a rank's span, in 1F1B's memory; a vee"),
    _squeezed("v-half", vee.v_half, "half of 1F1B's memory and bubble; a vee"),
    _squeezed("v-min", vee.v_min, "a third of 1F1B's memory, two thirds of its bubble; a vee"),
    Generator(
        "vee",
        timed_vee.timed_vee,
        "any memory from V-Min's on, for the given times; a vee",
        frozenset({"slots"}),
        chunks=_TWO_CHUNKS,
        shape=Shape.VEE,
        held=timed_vee.default_slots,
        enough=timed_vee.enough,
        by_times=lambda request: True,
    ),
    _alternating(
        "gis",
        "interleaved 1F1B with split backward: less bubble, P micro-batches' memory",
        Kind.B,
        1,
    ),
    Generator(
        "dualpipe-v",
        dualpipe.dualpipe_v,
        "forwards paired with backwards to overlap; a vee",
        chunks=_TWO_CHUNKS,
        shape=Shape.VEE,
        held=lambda request: 2 * request.pp_size + 1,
    ),
)

GENERATORS: Mapping[str, Generator] = MappingProxyType({made.name: made for made in _ALL})

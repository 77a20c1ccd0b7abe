"""What a page asks for: a scenario of the command line, the text of a file, edits."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self

from zeropp.costs import Costs
from zeropp.explore.edit import Move, moved
from zeropp.ir import Placement, Program, Recompute, Schedule
from zeropp.ir.model import SIZES, GPTConfig
from zeropp.ir.numbers import Size, check_numbers
from zeropp.planner.asked import Asked
from zeropp.program import Policy, require_valid, verify
from zeropp.program.verifier import Violation
from zeropp.scenario import OF_SCHEDULES, Limited
from zeropp.torch.text import understood

_MOST_PAIRS = 8192  # of stage and micro-batch, that a page draws
_MOST_GPUS = 4096


@dataclass(frozen=True)
class Wanted(Limited):
    """One scenario, and its peers by `compare`."""

    file: str | None = None
    """Text of a schedule or a program, in place of a schedule by name."""
    file_name: str = "file"
    """What it is called; torch's CSV ends in .csv."""
    moves: tuple[Move, ...] = ()
    """Edits of the order by hand."""
    split: tuple[int, ...] | None = None
    """In a saved program, blocks in each stage."""
    recompute: Literal["none", "selective", "full"] | None = None
    """In a saved program, what of a block is run again in its B."""

    def __post_init__(self) -> None:
        check_numbers(self)
        self._bound(self.pp, self.chunks, self.microbatches)
        if self.shard not in (None, *Policy):
            raise ValueError(f"shard must be one of {', '.join(Policy)}, got {self.shard!r}")

    def original(self) -> Schedule | Program:
        """The named schedule, or the content of the file; before edits."""
        return _original(replace(self, moves=(), compare=None, split=None, recompute=None))

    def found(self, text: str) -> Schedule | Program:
        """What this text of a file holds."""
        self.refuse(OF_SCHEDULES, "for a schedule by name, and the file says its own")
        subject = understood("file", Path(self.file_name), text)
        placement = subject.placement
        schedule = subject.schedule if isinstance(subject, Program) else subject
        self._bound(placement.pp_size, placement.num_chunks, schedule.num_microbatches)
        return self.sound(self.file_name, subject)

    def subject(self) -> Schedule | Program:
        """With the edits, which may have spoilt it."""
        return moved(self.original(), self.moves)

    def violations(self) -> tuple[Violation, ...]:
        """Of what an edit has spoilt; empty if it is sound."""
        return verify(self.subject()) if self.moves else ()

    def program(self) -> Program:
        """What is simulated and saved.

        Raises:
            ValueError: the edits have spoilt it.
        """
        if violations := self.violations():
            raise ValueError(f"moves: {str(violations[0]).splitlines()[0]}")
        subject = self.subject()
        if isinstance(subject, Program):
            return subject
        original = self.original()
        if isinstance(original, Program):
            return self._lowered_like(subject, original)
        return self.lowered(subject)

    def _lowered_like(self, schedule: Schedule, program: Program) -> Program:
        """An edited program's order, with collectives by its policy, its cut and recomputation."""
        like = replace(self, shard=program.shard)
        if program.max_resident is not None:
            like = replace(like, max_resident=program.max_resident)
        made = like.lowered(schedule)
        return replace(made, split=program.split, recompute=program.recompute)

    def saved(self) -> Program:
        """The program for a file, proved."""
        program = self.program()
        if self.split is not None:
            program = replace(program, split=self.split)
        if self.recompute is not None:
            program = replace(program, recompute=Recompute(self.recompute))
        return require_valid(program)

    def costs_for(self, placement: Placement) -> Costs:
        """With all that a simulation asks."""
        return self.costs_of(placement, transfer=self.transfer, host=self.host)

    def named(self, name: str) -> Self:
        """A peer by name; of a file, one of its sizes."""
        return super(Wanted, self._of_sizes()).named(name)

    def _of_sizes(self) -> Self:
        if self.file is None:
            return replace(self, moves=())
        original = self.original()
        placement = original.placement
        schedule = original.schedule if isinstance(original, Program) else original
        sizes: dict[str, Any] = {"pp": placement.pp_size, "chunks": placement.num_chunks}
        if isinstance(original, Program) and original.shard:
            limit = original.max_resident
            sizes |= {"shard": original.shard, "max_resident": limit or placement.num_chunks}
        return replace(self, file=None, moves=(), microbatches=schedule.num_microbatches, **sizes)

    @staticmethod
    def _bound(pp: int, chunks: int, microbatches: int) -> None:
        if (pairs := pp * chunks * microbatches) > _MOST_PAIRS:
            raise ValueError(
                f"microbatches: a page draws pp x chunks x microbatches up to {_MOST_PAIRS}, "
                f"got {pairs}; zeropp simulate takes more"
            )


@lru_cache(maxsize=8)
def _original(wanted: Wanted) -> Schedule | Program:
    return wanted.made() if wanted.file is None else wanted.found(wanted.file)


@dataclass(frozen=True)
class WantedPlan(Asked):
    """A model by a named size, of which parts may be others, and a cluster; nothing in files."""

    layers: Size | None = None
    """Decoder layers, if not the named size's."""
    hidden: Size | None = None
    """Width, if not the named size's; and so on."""
    heads: Size | None = None
    kv_heads: Size | None = None
    ffn: Size | None = None
    vocab_size: Size | None = None

    def __post_init__(self) -> None:
        check_numbers(self)
        if self.profile is not None:
            raise ValueError("profile: a page reads no files; use zeropp plan --profile")
        if self.gpus > _MOST_GPUS:
            raise ValueError(
                f"gpus: a page plans for up to {_MOST_GPUS}, got {self.gpus}; zeropp plan takes "
                "more"
            )

    def named(self) -> GPTConfig:
        """The named size, with the parts that are given."""
        if self.model is None or self.model not in SIZES:
            raise ValueError(f"model must be one of {', '.join(SIZES)}; got {self.model!r}")
        parts = ("layers", "hidden", "heads", "kv_heads", "ffn", "vocab_size")
        given = {name: value for name in parts if (value := getattr(self, name)) is not None}
        if self.seq_len is not None:
            given["seq_len"] = max(self.seq_len, SIZES[self.model].seq_len)
        return replace(SIZES[self.model], **given)

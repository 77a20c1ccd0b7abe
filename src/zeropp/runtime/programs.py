"""The programs that a pipeline runs, by numbers of micro-batches: sound, the same on all ranks."""

from collections.abc import Callable, Mapping
from hashlib import sha256
from operator import attrgetter

from zeropp.ir.program import Program
from zeropp.program.derived import forward_only_program, without_collectives
from zeropp.program.verifier import require_collectives, require_valid
from zeropp.runtime.agreement import together
from zeropp.runtime.instructions import Instruction, instructions
from zeropp.runtime.stage import Stage

Instructions = tuple[Instruction, ...]


class Programs:
    """What a rank runs: the program that it begins with, accepted, and those that `program_for`
    makes of other numbers of micro-batches; None: there are none.
    """

    def __init__(
        self,
        program: Program,
        program_for: Callable[[int], Program] | None,
        sharded: bool,
        rank: int,
        stages: Mapping[int, Stage],
    ) -> None:
        self._program_for, self._sharded = program_for, sharded
        self._rank, self._stages = rank, stages
        self._evaluations: dict[int, Instructions] = {}
        self._begin(program)

    def follow(self, program: Program) -> None:
        """Run it from now on; collective; ValueError if it is not fit, or another elsewhere."""
        self._begin(together(lambda: self._like(program), named))

    def _begin(self, program: Program) -> None:
        self.program = program
        self._training = {program.schedule.num_microbatches: self._ready(program)}

    def _like(self, given: Program) -> Program:
        """As it will run; ValueError if it is not sound, or more than the order changes."""
        program = self._sound(given)
        for name in ("placement", "schedule.num_microbatches", "split", "recompute"):
            now, wanted = attrgetter(name)(self.program), attrgetter(name)(program)
            if now != wanted:
                what = name.removeprefix("schedule.")
                raise ValueError(f"{what} cannot change while training; make another pipeline")
        return program

    def _sound(self, program: Program) -> Program:
        return sound(program, self.program.placement.pp_size, self._sharded)

    def training(self, count: int) -> Instructions:
        """Of a step of `count` micro-batches, collective the first time; ValueError for others."""
        if count not in self._training:
            if (make := self._program_for) is None or count < 1:
                raise ValueError(
                    "batch: a list must hold "
                    f"num_microbatches={self.program.schedule.num_microbatches} pairs "
                    f"(inputs, targets), got {count}"
                )
            program = together(lambda: self._sound(make(count)), named)
            self._training[count] = self._ready(program)
        return self._training[count]

    def evaluation(self, count: int) -> Instructions:
        """Forward only."""
        if count not in self._evaluations:
            self._evaluations[count] = self._ready(forward_only_program(self.program, count))
        return self._evaluations[count]

    def _ready(self, program: Program) -> Instructions:
        return instructions(program.actions[self._rank], program.placement, self._stages)


def sound(program: Program, pp_size: int, sharded: bool) -> Program:
    """The program as it will run on a mesh of so many pipeline ranks.

    Raises:
        ValueError: it is of other ranks, or has no collectives where parameters are sharded.
        InvalidProgramError: it breaks a rule.
    """
    if not isinstance(program, Program):
        raise ValueError(
            f"program: a Program is wanted, got {type(program).__name__}; of a plan, "
            "zeropp.program_of makes one, and zeropp.pipeline a pipeline"
        )
    if (wanted := program.placement.pp_size) != pp_size:
        raise ValueError(f"mesh: the program has pp_size={wanted} ranks, the mesh {pp_size}")
    require_valid(program)
    if sharded:
        require_collectives(program)
    return program if sharded else without_collectives(program)


def named(program: Program) -> dict[str, object]:
    """What all ranks must have been given alike."""
    header = program.placement, program.schedule.units, program.shard, program.max_resident
    orders = (" ".join(map(str, order)) for order in program.actions)
    return {"program": sha256("\n".join([repr(header), *orders]).encode()).hexdigest()}

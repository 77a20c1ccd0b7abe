"""A task is what all ranks of a run are given: the plan, and the one program made of it."""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from zeropp.build import program_of
from zeropp.ir import Program, stage_blocks
from zeropp.plan import Plan
from zeropp.planner import SavedPlan
from zeropp.program import InvalidProgramError, require_collectives, require_split, verify
from zeropp.torch.text import read
from zeropp.train.config import Config
from zeropp.train.start import Start

_MOST_TOKENS = 2**28  # of a step; 2 GiB as they are drawn


@dataclass(frozen=True)
class Task:
    """What is run, made once: by the launcher, or under torchrun by rank 0."""

    saved: SavedPlan
    program: Program  # the one that every rank runs
    start: Start = field(default_factory=Start)

    @property
    def batch(self) -> int:
        """Sequences in a step, of all ranks."""
        return batch_of(self.saved)


def batch_of(saved: SavedPlan) -> int:
    """Sequences in a step of all ranks."""
    return saved.micro_batch_size * saved.plan.num_microbatches * saved.plan.dp_size


def task_of(
    config: Config, saved: SavedPlan, num_blocks: int, program: Program | None = None
) -> Task:
    """Make and prove the program of a run of a model of `num_blocks`, or prove the one that its
    file holds.

    Raises:
        ValueError: a schedule, program or cut that fits neither the plan nor the model.
        InvalidProgramError: the program breaks a rule; where it is a file, with the first place.
    """
    tokens = saved.micro_batch_size * config.data.seq_len * saved.plan.num_microbatches
    if tokens * saved.plan.dp_size > _MOST_TOKENS:
        raise ValueError(
            f"data.micro_batch_size: a step would have {tokens * saved.plan.dp_size} tokens, more "
            f"than {_MOST_TOKENS}; use less, or fewer micro-batches"
        )
    if program is None:
        program = program_of(saved.plan)
    elif found := verify(program):
        line = str(found[0]).splitlines()[0]
        raise InvalidProgramError(f"program: {config.program}: {line}; `zeropp verify` says more")
    stage_blocks(num_blocks, program.placement.num_stages, program.split)
    if saved.plan.dp_size > 1 or config.run.precision != "fp32":
        require_collectives(program)
    if config.run.adapt_every:
        require_split(program.schedule, "run.adapt_every")
    return Task(saved, program)


def fitted(saved: SavedPlan, ranks: int) -> SavedPlan:
    """The plan for another number of ranks, with as many sequences in a step: as many stages a
    pipeline as before or, where that does not go, the most that do, over more or fewer data ranks.

    Raises:
        ValueError: nothing of that kind fits.
    """
    plan, whole = saved.plan, batch_of(saved) // saved.micro_batch_size
    if plan.world_size == ranks:
        return saved
    for pp_size in range(min(plan.pp_size, ranks), 0, -1):
        data, left = divmod(ranks, pp_size)
        each, uneven = divmod(whole, data)
        if left or uneven:
            continue
        copies = plan.dp_replicate if plan.dp_shard > 1 and data % plan.dp_replicate == 0 else 1
        if plan.dp_shard == 1:
            copies = data
        unit = plan.unit_size
        unit = None if isinstance(unit, int) and unit > each else unit
        split = plan.split if pp_size == plan.pp_size else None
        made = replace(
            plan,
            pp_size=pp_size,
            num_microbatches=each,
            unit_size=unit,
            split=split,
            dp_replicate=copies,
            dp_shard=data // copies,
            costs=None,
        )
        return SavedPlan(made, saved.micro_batch_size)
    raise ValueError(
        f"run.elastic: {ranks} ranks cannot share {whole} micro-batches in a step; start a number "
        "of ranks by which that can be divided"
    )


def read_program(path: Path) -> Program:
    """The program in a file.

    Raises:
        ValueError: unreadable, not understood, or a schedule.
    """
    found = read("program", path)
    if not isinstance(found, Program):
        raise ValueError(
            f"program: {path}: it holds a schedule; make a program of it with `zeropp generate "
            f"{path} --program`"
        )
    return found


def plan_like(program: Program, asked: Plan) -> Plan:
    """What [parallel] says of a run of this program over as many data ranks as are asked for."""
    placement = program.placement
    return Plan(
        placement.pp_size,
        placement.num_chunks,
        program.schedule.num_microbatches,
        program.schedule.name,
        dp_shard=asked.dp_shard,
        dp_replicate=asked.dp_replicate,
        shard=program.shard or "unit",
        max_resident=program.max_resident or placement.num_chunks,
        split=program.split,
        recompute=str(program.recompute or "none"),
    )


def refuse_contradictions(asked: Plan, program: Program) -> None:
    """Raise ValueError where [parallel] says other than the program, which decides all but D."""
    own = plan_like(program, asked)
    for name in (one.name for one in fields(Plan)):
        if getattr(asked, name) != getattr(own, name):
            raise ValueError(
                f"parallel.{name}: the program file decides ({getattr(own, name)}), got "
                f"{getattr(asked, name)}; leave the option out"
            )

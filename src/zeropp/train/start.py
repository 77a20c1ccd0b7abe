"""From where a run begins: anew, or from a checkpoint, which decides what must stay as it was."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zeropp.ir import Program, read_file
from zeropp.ir.toml_file import table_of
from zeropp.launch import restarted
from zeropp.planner import SavedPlan, read_plan
from zeropp.report.folder import CHECKPOINTS, METRICS
from zeropp.report.lines import tell
from zeropp.train.config import Config

OWNER, WRITER = ".owner", ".writer"  # locks: of who started the run, and of its first rank
PATIENCE_S = 15.0  # for a killed run's last processes to end
AUTO = "auto"


@dataclass(frozen=True)
class Start:
    """From where a run begins.

    Attributes:
        step: how many steps are made.
        path: the checkpoint; None: fresh weights.
        length: steps of the learning-rate schedule.
    """

    step: int = 0
    path: Path | None = None
    length: int = 0


def checkpoints(config: Config) -> Path:
    """Where the run's own are."""
    return config.folder / CHECKPOINTS


def find_start(config: Config, batch: int) -> Start:
    """Where to begin; for the owner of the folder alone, which is tidied up.

    Args:
        config: of the run.
        batch: sequences in a step of the optimizer.

    Raises:
        ValueError: the folder holds a run that shall not go on, a checkpoint that cannot be read,
            is further than run.steps, or had another number of sequences in a step.
    """
    from zeropp import checkpoint

    new = Start(length=config.optim.schedule_steps or config.run.steps)
    wanted = config.run.resume or (AUTO if restarted() else None)
    with checkpoint.owned("run.name", config.folder / WRITER, PATIENCE_S):
        checkpoint.restore(checkpoints(config))
        if wanted is None:
            _require_new(config)
            return new
        path = Path(wanted)
        if wanted == AUTO:
            found, broken = checkpoint.newest(checkpoints(config))
            for line in broken:
                tell(f"passed over: {line}")
            if found is None:
                return new
            path = found
    header, _ = checkpoint.read(path, "run.resume")
    _require_fit(config, batch, path, header)
    length = config.optim.schedule_steps or header.run.get("schedule_steps", new.length)
    for line in differences(header.run.get("config", {}), table_of(config)):
        tell(f"not as before {path}: {line}")
    return Start(header.step, path, length)


def _require_new(config: Config) -> None:
    if (config.folder / METRICS).exists() or any(checkpoints(config).glob("step-*")):
        raise ValueError(
            f"run.name: {config.folder} holds a run already; go on with it by --run.resume auto, "
            "or choose another --run.name"
        )


def _require_fit(config: Config, batch: int, path: Path, header: Any) -> None:
    steps, before = config.run.steps, header.run.get("batch", batch)
    if header.step > steps:
        raise ValueError(
            f"run.steps: {path} has made {header.step} steps already, got {steps}; ask for more"
        )
    if before != batch:
        raise ValueError(
            f"data.micro_batch_size: a step of {path} has {before} sequences, here {batch}; keep "
            "micro_batch_size x num_microbatches x data ranks as it was"
        )


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Fields of two configurations that differ, as lines."""
    for name, old, new in changed(before, now):
        yield f"{name} was {old}, is {new}"


def changed(
    before: Mapping[str, Any], now: Mapping[str, Any], at: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Fields of two configurations that differ: name, what it was, what it is."""
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from changed(old, new, f"{at}{name}.")
        elif _plain(old) != _plain(new) and at + name != "run.resume":
            yield at + name, _plain(old), _plain(new)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def as_it_ran(start: Start, saved: SavedPlan, program: Program) -> dict[str, Any]:
    """The order that an adapting run had when its checkpoint was written, as fields of a task,
    where layout and batch are the same; else none.
    """
    if start.path is None or not (start.path / "plan.toml").is_file():
        return {}
    ran = read_plan(start.path / "plan.toml").plan
    found = read_file("program", start.path / "program.txt")
    same = ran.num_microbatches == saved.plan.num_microbatches
    if same and isinstance(found, Program) and _layout(found) == _layout(program):
        return {"saved": replace(saved, plan=ran), "program": found}
    return {}


def _layout(program: Program) -> tuple[Any, ...]:
    return program.placement, program.shard, program.max_resident, program.split, program.recompute

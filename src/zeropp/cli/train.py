"""`zeropp train`: train a model on text, from one command."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import tyro

from zeropp.cli.verb import Verb, parsed
from zeropp.ir import Program
from zeropp.ir.collector import loading
from zeropp.ir.files import new_folder
from zeropp.ir.toml_file import table_of
from zeropp.launch import launched, leads, leads_host, load_ranks, under_torchrun
from zeropp.launch.relay import relayed
from zeropp.planner import write_plan
from zeropp.report.folder import CONFIG
from zeropp.report.lines import DATE, TERMINAL, counted, tell
from zeropp.report.live import View, is_shown
from zeropp.train.choice import checked_model_of, length_of, module_of, sizes_of
from zeropp.train.config import AUTO, Config, read_config, write_config
from zeropp.train.start import OWNER, as_it_ran, changed, find_start
from zeropp.train.task import Task, fitted, plan_like, read_program, refuse_contradictions, task_of
from zeropp.train.writers import require_wandb


@dataclass(frozen=True)
class Train(Config, Verb):
    """Train a GPT, or a decoder of Hugging Face transformers, on text; options override the files
    that are named."""

    config: Path | None = None
    """A TOML file that sets fields, such as the config.toml of an earlier run."""
    rehearse: bool = False
    """Run the plan's program over real processes with sleep for compute, and no model."""
    held: tyro.conf.Fixed[Program | None] = None  # what the program file holds; no option

    @classmethod
    def parse(cls, arguments: list[str], prog: str) -> "Train":
        """Options over files over defaults: parsed once for the files' names, then over these."""
        read = partial(_parse, arguments, prog)
        named = read(Config())
        config = Config() if named.config is None else read_config(named.config)
        file = named.program or config.program
        if file is None:
            return read(config)
        program = read_program(Path(file))
        command = read(replace(config, parallel=plan_like(program, config.parallel)))
        refuse_contradictions(command.parallel, program)
        return replace(command, held=program)

    def perform(self) -> int:
        """Check everything that can be checked, then run the ranks."""
        self.check()
        if self.run.wandb is not None:
            require_wandb()
        config = Config(**_fields(self))
        if self.rehearse:
            _rehearse(config, self.held)
        else:
            with _watched(config):
                _train(config, self.held)
        return 0


def _parse(arguments: list[str], prog: str, default: Config) -> Train:
    markers = (tyro.conf.AvoidSubcommands, tyro.conf.SuppressFixed)
    given = Train(**_fields(default))
    return parsed(Train, arguments, prog, default=given, config=markers)


def _fields(config: Config) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in fields(Config)}


def _task(config: Config, program: Program | None) -> Task:
    length_of(config.model, config.data.seq_len, "data.seq_len")
    num_blocks = sizes_of(config.model).num_blocks
    saved, given = config.saved_plan(), launched()
    if config.run.elastic and given is not None and program is None:
        saved = fitted(saved, given.ranks)
    task = task_of(config, saved, num_blocks, program)
    if given is not None:
        from zeropp.runtime import check_world_size

        plan = task.saved.plan
        check_world_size(plan.pp_size, plan.dp_replicate, plan.dp_shard, given.ranks)
    return task


def _load(config: Config, program: Program | None) -> tuple[Task | None, int]:
    """What is to be done, where this process leads, and on how many ranks, which are being loaded;
    a folder's model is looked at meanwhile, as that takes seconds too.
    """
    modules = __name__, "zeropp.train.measuring", module_of(config.model)
    if config.model.hf is not None:
        load_ranks(*modules)
    task = _task(config, program) if leads() else None
    load_ranks(*modules)
    return task, task.saved.plan.world_size if task else 0


def _rehearse(config: Config, program: Program | None) -> None:
    task, ranks = _load(config, program)
    with loading():  # torch, only now
        from zeropp.launch.ranks import run_on_ranks
        from zeropp.train.measuring import rehearse_task

    run_on_ranks(ranks, "cpu", rehearse_task, task, options=_set(config))


def _train(config: Config, program: Program | None) -> None:
    """Prepare the run's folder where this process leads, and train on all ranks."""
    task, ranks = _load(config, program)
    with loading():  # torch, only now
        from zeropp.launch.ranks import device_of, run_on_ranks
        from zeropp.train.data import make_tokens
        from zeropp.train.loop import train_task
        from zeropp.train.measuring import plan_and_train

    device_of(ranks, config.run.device)
    with ExitStack() as held:
        if task is not None:
            task = _prepared(config, task, held)
        elif leads_host():
            make_tokens(config)
        function = plan_and_train if config.plan == AUTO else train_task
        if task is not None and not under_torchrun():
            tell(f"starting {counted(ranks, 'rank')}")
        run_on_ranks(ranks, config.run.device, function, config, task, options=_set(config))
    if task is not None:
        folder = config.folder
        tell(
            f"{folder}: config.toml, program.txt, metrics.jsonl, sample.txt, timeline.png, "
            f"timeline.json (Perfetto) and checkpoints\n"
            f"next: look at {folder}/timeline.png, or take the weights elsewhere, or train on your "
            f"own text:\nzeropp report {folder} -o report.html\nzeropp export {folder} -o NEW\n"
            "zeropp train --run.name mine --data.path FOLDER"
        )


def _is_watched() -> bool:
    """Whether a terminal looks on, and this process starts the ranks."""
    return is_shown() and not under_torchrun()


@contextmanager
def _watched(config: Config) -> Iterator[None]:
    """A view of the run on the terminal, while the body runs."""
    if not _is_watched():
        yield
        return
    width = os.get_terminal_size(sys.stdout.fileno()).columns
    os.environ[TERMINAL] = str(width + DATE)  # dates are not shown there
    view = View(config.folder, config.run.steps, sys.stdout.fileno())
    try:
        with view, relayed(view.take):
            yield
    finally:
        del os.environ[TERMINAL]


def _set(config: Config) -> dict[str, Any]:
    """The fields that are other than by default, by name."""
    return {name: new for name, _, new in changed(table_of(Config()), table_of(config))}


def _prepared(config: Config, task: Task, held: ExitStack) -> Task:
    """What is to be done, and from where it begins, with its configuration in a folder of its own;
    what cannot run is refused. The folder is owned until `held` ends.
    """
    from zeropp import checkpoint
    from zeropp.train.data import check_corpus

    folder, model = config.folder, checked_model_of(config.model)
    with new_folder("run.folder", folder), ExitStack() as owned:
        owned.enter_context(checkpoint.owned("run.name", folder / OWNER))
        start = find_start(config, task.batch * config.optim.accumulate)
        if start.path is not None:
            checkpoint.check(start.path, model.blocks)
            tell(f"going on from {start.path}")
        if config.run.adapt_every:
            task = replace(task, **as_it_ran(start, task.saved, task.program))
        tell("reading the text")
        check_corpus(config, model)
        if config.plan not in (None, AUTO):
            write_plan(task.saved, folder / "plan.toml")
            config = replace(config, plan=str(folder / "plan.toml"))
        write_config(config, folder / "config.toml")
        listed = ", ".join(f"{name} {new}" for name, new in _set(config).items()) or "none"
        tell(f"settings other than by default: {listed}; all of them: {folder / CONFIG}")
        held.enter_context(owned.pop_all())
    return replace(task, start=start)

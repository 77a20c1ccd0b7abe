"""`zeropp train`: train a GPT on text, from one command."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import tyro

from zeropp.cli.ranks import run_on_ranks
from zeropp.plan import Plan
from zeropp.planner import write_plan
from zeropp.train.config import AUTO, Config, read_config, write_config


def train(arguments: list[str]) -> int:
    """Resolve the configuration, check everything that can be checked, then start the ranks."""
    rehearses = "--rehearse" in arguments
    config = _resolve([a for a in arguments if a != "--rehearse"])
    config.check()
    if rehearses:
        _rehearse(config)
        return 0
    folder = config.folder
    if (folder / "metrics.jsonl").exists() and config.run.resume is None:
        raise ValueError(
            f"run.name: {folder} holds a run already; choose another --run.name, or continue it "
            f"with --run.resume {folder}/checkpoints/step-N"
        )
    _start(config)
    return 0


def _resolve(arguments: list[str]) -> Config:
    default = Config()
    if "--config" in arguments:
        at = arguments.index("--config")
        if at + 1 == len(arguments):
            raise ValueError("--config needs the path of a TOML file")
        default = read_config(Path(arguments[at + 1]))
        arguments = arguments[:at] + arguments[at + 2 :]
    return tyro.cli(
        Config,
        args=arguments,
        default=default,
        prog="zeropp train",
        description="Train a GPT. --config FILE.toml sets fields, options override it; --rehearse "
        "runs the plan's program over real processes with sleep for compute, and no model.",
    )


def _start(config: Config) -> None:
    import torch  # only now: everything above answers at once

    from zeropp.checkpoint import files as checkpoint
    from zeropp.launch.ranks import resolve_device
    from zeropp.models import gpt_blocks
    from zeropp.tokens.corpus import load_corpus
    from zeropp.train.automatic import plan_and_train
    from zeropp.train.loop import train as run

    load_corpus(config.data.path, seq_len=config.data.seq_len)
    if config.run.resume:
        with torch.device("meta"):
            checkpoint.check(Path(config.run.resume), gpt_blocks(config.model.gpt()))
    saved, folder = config.saved_plan(), config.folder
    folder.mkdir(parents=True, exist_ok=True)
    if config.plan not in (None, AUTO):
        write_plan(saved, folder / "plan.toml")
        config = replace(config, plan=str(folder / "plan.toml"))
    write_config(config, folder / "config.toml")
    print((folder / "config.toml").read_text(encoding="utf-8"), flush=True)
    function = plan_and_train if config.plan == AUTO else run
    _launch(saved.plan, resolve_device(config.run.device), function, config)
    print(
        f"{folder}: config.toml, metrics.jsonl, sample.txt, timeline.png, timeline.json (Perfetto) "
        f"and checkpoints/step-{config.run.steps}\n"
        f"next: look at {folder}/timeline.png, or train on your own text:\n"
        "    zeropp train --run.name mine --data.path FOLDER"
    )


def _rehearse(config: Config) -> None:
    from zeropp.train.rehearsal import rehearse_plan

    plan = config.saved_plan().plan
    _launch(plan, "cpu", rehearse_plan, plan)


def _launch(plan: Plan, device: str, function: Callable[..., None], *args: Any) -> None:
    from zeropp.launch.ranks import torchrun_ranks, under_torchrun
    from zeropp.runtime.mesh import check_world_size

    if under_torchrun():
        check_world_size(plan, torchrun_ranks())
    run_on_ranks(plan.world_size, device, function, *args)

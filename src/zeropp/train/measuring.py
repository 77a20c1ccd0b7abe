"""A model measured on every rank: into a profile, or for a plan by which it is trained at once;
and a plan rehearsed there without one.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch.distributed as dist
from rich.console import Console
from rich.table import Table

from zeropp.costs import Costs
from zeropp.measure.profiling import Measurement, Spread, measure, profile, ranks_per_node
from zeropp.measure.rehearsal import rehearse
from zeropp.planner import Problem, best_plan, write_plan
from zeropp.planner.profile import Profile, Setting
from zeropp.planner.profile_file import write_profile
from zeropp.report.lines import counted, tell
from zeropp.runtime import default_device
from zeropp.train.choice import model_of, sizes_of
from zeropp.train.config import DEMO_PLAN, Backend, Config, ModelConfig, write_config
from zeropp.train.loop import of_first_rank, train_task
from zeropp.train.model import subject_of
from zeropp.train.task import Task, task_of

_REHEARSED_S = 0.010  # of every action in a rehearsal
_LARGEST = 8  # sequences in a micro-batch that are tried


def run_profile(
    output: Path,
    config: ModelConfig,
    seq_len: int,
    settings: tuple[Setting, ...],
    precision: str,
    compile_with: Backend,
) -> None:
    """Measure every setting as one rank; the first writes the profile and prints."""
    device, leads = default_device(), dist.get_rank() == 0
    model = model_of(config).compiled(compile_with)
    subject = subject_of(model, seq_len, settings, precision)
    found = []
    for one in measure(subject, device):
        found.append(one)
        if leads:
            size, recompute = one.setting
            print(f"measured {one.kind}, micro-batch of {size}, recompute {recompute}", flush=True)
    made = profile(subject, found, device)
    if not leads:
        return
    write_profile(made, output)
    Console().print(_table(found))
    for name, link in (("inside a node", made.inside), ("between nodes", made.between)):
        if link is not None:
            print(f"{name}: {link.latency * 1e6:.0f} us, {link.bandwidth / 1e9:.2f} GB/s")
    print(f"{output}: next, zeropp plan --profile {output} --gpus N --global-batch N")


def _table(found: Iterable[Measurement]) -> Table:
    table = Table(title="ms on the first rank, median and half the quartiles' distance; MiB held")
    for column in ("block", "size", "recompute", "F", "B", "W", "F to B", "B to W"):
        table.add_column(column, justify="right")
    for one in found:
        block, times = one.block, map(_milliseconds, one.spreads)
        held = (f"{size / 2**20:.2f}" for size in (block.until_backward, block.until_weight))
        table.add_row(one.kind, *map(str, one.setting), *times, *held)
    return table


def _milliseconds(spread: Spread) -> str:
    half = (spread.high - spread.low) / 2 / spread.median
    return f"{spread.median * 1e3:.2f} ±{half:.0%}"


def plan_and_train(config: Config, asked: Task | None) -> None:
    """Measure, plan and train as one rank of an initialised process group, all of which are used.

    How many ranks and how large a batch is asked for stands in [parallel]; of `asked`, the task for
    that, only the start is looked at.

    Raises:
        ValueError: nothing fits.
    """
    made, batch = _profile_for(config)
    path = config.folder / "plan.toml"
    planned, task = replace(config, plan=str(path), parallel=DEMO_PLAN), None
    if dist.get_rank() == 0:
        tell("planning")
        answer = best_plan(Problem(made, dist.get_world_size(), ranks_per_node(), batch))
        tell("\n".join((f"plan: {answer.family}", *answer.reasons)))
        write_plan(answer.saved, path)
        write_config(planned, config.folder / "config.toml")
        task = task_of(planned, answer.saved, sizes_of(config.model).num_blocks)
        task = replace(task, start=asked.start if asked else task.start)
    train_task(planned, task)


def _profile_for(config: Config) -> tuple[Profile, int]:
    """With every size of a micro-batch that may be planned; and sequences in a step."""
    asked, device, run = config.saved_plan(), default_device(), config.run
    batch = asked.micro_batch_size * asked.plan.num_microbatches * asked.plan.dp_size
    sizes = [2**i for i in range(_LARGEST.bit_length()) if 2**i <= min(batch, _LARGEST)]
    if dist.get_rank() == 0:
        tell(f"measuring blocks with micro-batches of {sizes}, and links")
    model = model_of(config.model, run.seed).compiled(run.compile)
    subject = subject_of(model, config.data.seq_len, tuple(map(Setting, sizes)), run.precision)
    return profile(subject, list(measure(subject, device)), device), batch


def rehearse_task(task: Task | None) -> None:
    """Rehearse with equal times for every F, B and W, and say how it went; on every rank."""
    task = of_first_rank(task)
    plan, times = task.saved.plan, (_REHEARSED_S,) * task.program.placement.num_stages
    result = rehearse(plan, Costs(times, times, times), program=task.program)
    if dist.get_rank() == 0:
        actions = sum(map(len, task.program.schedule.actions))
        tell(
            f"{counted(plan.world_size, 'rank')} ran the program of {plan.order}: {actions} "
            f"compute actions of {_REHEARSED_S * 1e3:.0f} ms\n"
            f"a hop: {result.latency_s * 1e6:.0f} us\n"
            f"step: {result.predicted_s:.3f} s predicted, {result.measured_s:.3f} s measured "
            f"({result.measured_s / result.predicted_s - 1:+.1%})"
        )

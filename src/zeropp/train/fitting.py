"""What needs less memory than a run that had too little: a plan for its ranks, by estimate."""

from dataclasses import replace

import torch

from zeropp.ir import Program, stage_blocks
from zeropp.ir.program import Recompute
from zeropp.launch import launched
from zeropp.planner import Problem, SavedPlan, write_plan
from zeropp.planner.analytic import Hardware, analytic_profile
from zeropp.planner.hardware import GPUS, gpu_like, usual_inside
from zeropp.planner.layout import Layout
from zeropp.planner.planner import plan_of
from zeropp.planner.pricing import cut, price
from zeropp.planner.profile import Setting
from zeropp.planner.search import Search
from zeropp.simulate import simulate
from zeropp.train.config import Config
from zeropp.train.environment import decoder_of, device_bytes, device_name, layout_of
from zeropp.train.task import Task

_SHARE = 0.8  # of the memory that was too much, that a plan may hold
_EFFORT = 200  # orders that are looked at, a few seconds
_UNKNOWN = "A100-80G"  # whose times are taken for those of a device that is not known


def less_memory(config: Config, task: Task, program: Program, device: torch.device) -> str:
    """What to do, in words; of a plan that is found, `smaller.toml` is written into the run's
    folder.

    Args:
        program: which was run.
        device: on which, with too little memory.
    """
    try:
        found, share = _smaller(config, task, program, device)
        path = config.folder / "smaller.toml"
        write_plan(found, path)
    except ValueError:  # of a model of another kind, nothing that fits, or no disk to write to
        return _by_rule(task.saved)
    return (
        f"by estimate {share:.0%} of that is held by the plan {path} ({layout_of(found)}, "
        f"recompute {found.plan.recompute}); go on with --plan {path} --run.resume auto in place "
        "of options for parallel"
    )


def _smaller(
    config: Config, task: Task, program: Program, device: torch.device
) -> tuple[SavedPlan, float]:
    """The fastest plan, by estimate, of the same ranks and sequences in a step that fits, and how
    much it holds of what `program` does.

    Raises:
        ValueError: there is none, or it cannot be told.
    """
    ranks, size = task.saved.plan.world_size, task.saved.micro_batch_size
    given = launched()
    here = ranks if given is None else given.local_ranks
    gpu = gpu_like(device_name(device), device_bytes(device))
    known = next((name for name, one in GPUS.items() if one == gpu), _UNKNOWN)
    hardware = Hardware(known, usual_inside(known), "ib-200", here)
    sizes = [one for one in range(1, size + 1) if size % one == 0]
    made = analytic_profile(decoder_of(config), hardware, config.data.seq_len, sizes)
    memory = device_bytes(device) / (1 if device.type == "cuda" else here)
    made = replace(made, device=replace(made.device, memory=memory))
    problem = Problem(made, ranks, here, task.batch)

    blocks = stage_blocks(len(made.kinds), program.placement.num_stages, program.split)
    cut_as_run = replace(problem, split=tuple(map(len, blocks)))
    setting, plan = Setting(size, program.recompute or Recompute.NONE), task.saved.plan
    layout = Layout(program.placement, plan.dp_shard, plan.dp_replicate, setting)
    costs = price(problem, layout, cut(cut_as_run, layout)).costs
    held = max(rank.peak for rank in simulate(program, costs).memory)

    room = min(problem.usable, _SHARE * held)
    best = Search(replace(problem, memory=room)).best(effort=_EFFORT)
    if best is None:
        raise ValueError("memory: no plan of these ranks holds less")
    found = SavedPlan(plan_of(best), best.priced.layout.setting.micro_batch_size)
    return found, best.prediction.peak_bytes / held


def _by_rule(saved: SavedPlan) -> str:
    """The same step in smaller micro-batches, if there are any, and what else holds less."""
    most, count = saved.micro_batch_size, saved.plan.num_microbatches
    size = max((d for d in range(1, most) if most % d == 0), default=0)
    smaller = (
        f"data.micro_batch_size {size} with parallel.num_microbatches {count * most // size} is "
        f"the same step with {size / most:.0%} of the activations; "
        if size
        else ""
    )
    return f"{smaller}parallel.recompute full holds less; plan auto finds a layout that fits"

"""`zeropp train --plan auto`: measure the model and the links, plan, then train by that plan."""

from dataclasses import replace

import torch.distributed as dist

from zeropp.ir.program import Recompute
from zeropp.measure.profiling import measure, profile, ranks_per_node
from zeropp.planner import Problem, SavedPlan, best_plan, write_plan
from zeropp.planner.profile import Setting
from zeropp.runtime.mesh import default_device
from zeropp.train.config import DEMO_PLAN, Config, write_config
from zeropp.train.loop import train_task
from zeropp.train.subject import gpt_subject
from zeropp.train.task import Task, task_of

_LARGEST = 8  # sequences in a micro-batch that are tried


def plan_and_train(config: Config, asked: Task | None) -> None:
    """Train as one rank of an initialised process group, all of which are used.

    Args:
        config: checked; how many ranks and how large a batch is asked for stands in [parallel].
        asked: not looked at: the plan is made here.

    Raises:
        ValueError: nothing fits.
    """
    saved, task = _planned(config), None
    path = config.folder / "plan.toml"
    config = replace(config, plan=str(path), parallel=DEMO_PLAN)
    if dist.get_rank() == 0:
        write_plan(saved, path)
        write_config(config, config.folder / "config.toml")
        task = task_of(config, saved)
    train_task(config, task)


def _planned(config: Config) -> SavedPlan:
    asked, device = config.saved_plan(), default_device()
    batch = asked.micro_batch_size * asked.plan.num_microbatches * asked.plan.dp_size
    sizes = [2**i for i in range(_LARGEST.bit_length()) if 2**i <= min(batch, _LARGEST)]
    settings = tuple(Setting(size, Recompute.NONE) for size in sizes)
    run, length = config.run, config.data.seq_len
    subject = gpt_subject(config.model.gpt(), length, settings, run.precision, run.compile)
    if dist.get_rank() == 0:
        print(f"measuring blocks with micro-batches of {sizes}, and links", flush=True)
    made = profile(subject, list(measure(subject, device)), device)
    found: list[SavedPlan | None] = [None]
    if dist.get_rank() == 0:
        answer = best_plan(Problem(made, dist.get_world_size(), ranks_per_node(), batch))
        found = [answer.saved]
        print("\n".join((f"plan: {answer.family}", *answer.reasons)), flush=True)
    dist.broadcast_object_list(found, src=0)
    if found[0] is None:
        raise RuntimeError("rank 0 sent no plan")
    return found[0]

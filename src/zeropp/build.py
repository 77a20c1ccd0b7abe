"""From a plan to what runs it: its program, and the pipeline that executes that."""

import atexit
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from zeropp.generate import generate
from zeropp.ir import Program, Recompute
from zeropp.plan import Plan
from zeropp.program import Policy, lower, require_valid

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.distributed.device_mesh import DeviceMesh

    from zeropp.runtime import Pipeline


def program_of(plan: Plan) -> Program:
    """The verified program of a plan, with the collectives of its policy.

    Raises:
        ValueError: what the generator refuses: a schedule that is unknown or does not fit.
        InvalidProgramError: the program breaks a rule.
    """
    return require_valid(program_for(plan, plan.num_microbatches))


def program_for(plan: Plan, batch: int) -> Program:
    """The same for B = `batch`, not yet verified; units that are larger are cut down to it."""
    order = plan.order
    if isinstance(order.unit_size, int):
        order = replace(order, unit_size=min(order.unit_size, batch))
    schedule = generate(
        order,
        plan.pp_size,
        plan.num_chunks,
        batch,
        costs=plan.costs,
        max_resident=plan.max_resident if plan.shard == Policy.UNIT else None,
    )
    program = lower(
        schedule,
        plan.shard,
        max_resident=plan.max_resident,
        prefetch=plan.prefetch,
        expected=None if plan.costs is None else plan.costs.expected(schedule),
    )
    recompute = Recompute(plan.recompute)
    given = None if recompute is Recompute.NONE else recompute
    return replace(program, split=plan.split, recompute=given)


def pipeline(
    blocks: "Sequence[nn.Module]",
    loss_fn: "Callable[..., Tensor]",
    plan: Plan,
    mesh: "DeviceMesh | None" = None,
    **options: Any,
) -> "Pipeline":
    """A model laid over all ranks by a plan: its program, its mesh and its `Pipeline`.

    What a script that ends well has left open, the pipeline and the process group, is closed then.

    Args:
        blocks: the model, as for `Pipeline`.
        loss_fn: as for `Pipeline`.
        plan: what runs.
        mesh: axes (pp, dp_replicate, dp_shard) of the plan's sizes; None: made over all ranks, and
            destroyed when the pipeline is closed.
        options: of `Pipeline`, by name.

    Raises:
        ValueError: as `program_of` and `Pipeline` do, or other sizes than the ranks that run.
        InvalidProgramError: the program breaks a rule.
    """
    from zeropp.runtime import Pipeline, close_mesh, make_mesh

    if mesh is None:
        sizes = plan.pp_size, plan.dp_replicate, plan.dp_shard
        mesh = make_mesh(*sizes, options.get("device"))
        options["end_mesh"] = close_mesh
    of = partial(program_for, plan)
    own = partial(of, plan.num_microbatches)
    pipe = Pipeline(blocks, loss_fn, own, mesh, program_for=of, **options)
    atexit.register(_leave, weakref.ref(pipe))
    return pipe


def _leave(pipe: "weakref.ref[Pipeline]") -> None:
    """Close what a script left open, since a thread of gloo that lets go of a tensor while the
    interpreter ends aborts the process. After an error other ranks may be gone, so nothing is.
    """
    import torch.distributed as dist

    if not hasattr(sys, "last_value"):
        if (left := pipe()) is not None:
            left.close()
        if dist.is_initialized():
            dist.destroy_process_group()

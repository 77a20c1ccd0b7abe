"""torch's private names, each with its reason; they held from torch 2.13 to 2.15.

torch has no public way to run an order of one's own. Its own schedules are subclasses of
`_PipelineScheduleRuntime`, which inserts messages (`_prepare_schedule_with_comms`) and runs what
stands in `pipeline_order_with_comms`; that is done here too. Public are `PipelineStage`, its
`dw_builder`, and `register_custom_function`.

REDUCE_GRAD is replaced by ours. torch 2.15's own reduces only what FSDP2's backward hooks marked
since the last time, so that the last W of a unit alone would be dropped; it gives up the gathered
parameters; and `scale_grads` after it would scale what was reduced before once more.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed._composable.replicate_with_fsdp import ReplicateModule
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.pipelining import schedules
from torch.distributed.pipelining.microbatch import TensorChunkSpec
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from zeropp.runtime import compat

if not hasattr(schedules._ComputationType, "REDUCE_GRAD"):
    raise ImportError(f"zeropp.torch needs torch 2.13 or later; this is {torch.__version__}")

Runtime = schedules._PipelineScheduleRuntime
Orders = dict[int, list[schedules._Action]]
WEIGHT = schedules._ComputationType.BACKWARD_WEIGHT
REDUCE = schedules._ComputationType.REDUCE_GRAD


def orders_of(rows: Iterable[Iterable[str]]) -> Orders:
    """Actions by rank, of their names."""
    return {r: [schedules._Action.from_str(name) for name in row] for r, row in enumerate(rows)}


def set_order(schedule: Any, compute: Orders, whole: Orders | None) -> None:
    """Have a `Runtime` run `compute`, with messages where torch puts them; and with the collectives
    of `whole`, each group of them before the compute that follows it, or else with torch's own.
    """
    schedule.pipeline_order = dict(compute)
    schedule._prepare_schedule_with_comms(schedule.pipeline_order)
    for rank, order in schedule.pipeline_order_with_comms.items():
        # ours waits for reductions at the end of a step
        kept = [a for a in order if a.computation_type.value != "WAIT_REDUCE_GRAD"]
        if whole is not None:
            kept = [*_with_collectives(kept, whole[rank])]
        schedule.pipeline_order_with_comms[rank] = kept


def _with_collectives(lowered: Sequence[Any], order: Sequence[Any]) -> Iterator[Any]:
    before: dict[Any, list[Any]] = {}
    waiting: list[Any] = []
    for action in order:
        if action.is_compute_op:
            before[action], waiting = waiting, []
        else:
            waiting.append(action)
    for action in lowered:
        if action.microbatch_index is not None:  # no collective
            yield from before.get(action, ())
            yield action
    yield from waiting


def forward_only(schedule: Any) -> Orders:
    """What a `Runtime` runs, without backward. torch's own `eval` goes through all of it, and fails
    where neighbouring stages are on one rank, as in a vee.
    """
    orders = schedule.pipeline_order_with_comms.items()
    return {rank: [*_forwards(order)] for rank, order in orders}


def _forwards(order: Iterable[Any]) -> Iterator[Any]:
    gathers: dict[int, Any] = {}  # of stages that have not been used since
    gathered: set[int] = set()
    for action in order:
        kind, stage = action.computation_type.value, action.stage_index
        if kind == "UNSHARD":
            gathers[stage] = action
        elif kind == "RESHARD":
            gathers.pop(stage, None)
            if stage in gathered:
                gathered.remove(stage)
                yield action
        elif kind in ("F", "SEND_F", "RECV_F", "WAIT_SEND_F"):
            if kind == "F" and stage in gathers:
                yield gathers.pop(stage)
                gathered.add(stage)
            yield action


def inside_of(schedule: Any) -> tuple[list[Any], int, Any]:
    """What one of torch's schedules was made of: stages, number of micro-batches, and loss."""
    own = schedule.__dict__
    stages = [own["_stage"]] if "_stage" in own else own["_stages"]
    return stages, schedule._n_microbatches, schedule._loss_fn


def device_of_objects(stage: Any) -> AbstractContextManager[Any]:
    """For collectives of Python objects of a stage's ranks, which NCCL sends from a device."""
    device = torch.device(stage.device)
    index = None if device.type == "cpu" else device.index  # of cpu:0 too there is no accelerator
    return torch.accelerator.device_index(index)


def columns(schedule: Any, args: Sequence[Any], given: Mapping[str, Any]) -> list[Sequence[Any]]:
    """Each input of a step, and its target, in the micro-batches that torch makes or is given."""
    rows = TensorChunkSpec(0)
    specs = schedule._args_chunk_spec or [rows] * len(args)
    whole = [*zip(args, specs, strict=False), (given.get("target"), rows)]
    cut = [
        value.tensor_split(schedule._n_microbatches, spec.split_dim)
        for value, spec in whole
        if isinstance(value, Tensor) and isinstance(spec, TensorChunkSpec)
    ]
    parts = [*zip(*(given.get("arg_mbs") or ()), strict=False), given.get("target_mbs") or ()]
    return [*cut, *filter(None, parts)]


def is_sharded(module: nn.Module) -> bool:
    """Whether `fully_shard` has sharded it."""
    return isinstance(module, FSDPModule)


def is_replicated(module: nn.Module) -> bool:
    """Whether it reduces gradients by DDP, or by FSDP2's `replicate`."""
    return isinstance(module, DistributedDataParallel | ReplicateModule)


def unsplittable(module: nn.Module) -> str | None:
    """The name of a parameter that is a DTensor in the forward too, as tensor parallelism makes it;
    None: there is none. With a mesh of spmd_types, FSDP2's alone are DTensors.
    """
    own = [m for m in module.modules() if isinstance(m, FSDPModule)]
    groups = [g for m in own for g in compat.groups_of(fully_shard.state(m))]  # type: ignore[attr-defined]
    every = [p for group in groups for p in group.fsdp_params]
    sharded = {
        p.sharded_param: p.is_dtensor and not getattr(p, "is_spmd_types", False) for p in every
    }
    for name, parameter in module.named_parameters():
        if sharded.get(parameter, isinstance(parameter, DTensor)):
            return name
    return None


def reduce_dtype(module: nn.Module) -> torch.dtype | None:
    """In which FSDP2 reduces the gradients of `module`; None: in the parameters' own."""
    policy = fully_shard.state(module)._mp_policy  # type: ignore[attr-defined]
    return policy.reduce_dtype


def full_parameters(module: Any) -> list[nn.Parameter]:
    """The gathered parameters that want a gradient; FSDP2 must have gathered them once."""
    return [p for p in compat.unsharded_parameters(module) if p.requires_grad]


def taken_gradients(module: Any) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """What autograd has summed since the last time, by full parameter; it is FSDP2's no more."""
    for parameter in (p for group in compat.groups(module) for p in group.fsdp_params):
        full, own = parameter._unsharded_param, vars(parameter)
        for gradient in (full.grad, own.get("unsharded_accumulated_grad")):
            if gradient is not None:
                yield full, gradient
        full.grad = None
        if "unsharded_accumulated_grad" in own:  # before torch 2.15, where it is `.grad`
            parameter.unsharded_accumulated_grad = None


def reduce_sums(module: Any, sums: Mapping[nn.Parameter, Tensor]) -> None:
    """Start to reduce `sums` into the sharded parameters' `.grad`; what is gathered stays so."""
    module.set_is_last_backward(True)
    module.set_reshard_after_backward(False)
    module.set_requires_gradient_sync(True)
    compat.reduce_sums(module, dict(sums))

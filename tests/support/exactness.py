"""The framework of exactness: a model in a pipeline against plain PyTorch in one process."""

import copy
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from support.features import (
    CLIPPED,
    FEATURES,
    GPT,
    GPT_BF16,
    GPT_NO_BIAS,
    KINDS,
    Batch,
    Feature,
    loss_sum,
)
from zeropp import AuxiliaryLoss
from zeropp.build import pipeline
from zeropp.plan import Plan
from zeropp.runtime.grid import make_mesh
from zeropp.runtime.keywords import asked_by
from zeropp.runtime.mesh import data_rank
from zeropp.runtime.pipeline import Pipeline


class Case(NamedTuple):
    """A model and how it is laid over ranks."""

    feature: Feature
    plan: Plan

    def __str__(self) -> str:
        plan = self.plan
        sizes = f"P={plan.pp_size} V={plan.num_chunks} D={plan.dp_replicate}x{plan.dp_shard}"
        sharded = f" {plan.shard}{plan.max_resident}" if plan.dp_size > 1 else ""
        again = "" if plan.recompute == "none" else f" {plan.recompute}"
        return f"{self.feature.name}; {plan.order} {sizes}{sharded}{again}"


# in these all but compiled features meet every P, V, schedule, policy and way to share data
LAYOUTS = (
    Plan(1, 1, 6, "zeropp", 6),
    Plan(1, 2, 6, "zeropp", 4),
    Plan(2, 4, 6, "zeropp", 2),
    Plan(2, 2, 6, "zb-v"),
    Plan(1, 2, 6, "zeropp", 6, dp_shard=2, max_resident=1, shard="microbatch"),
    Plan(4, 2, 6, "zeropp", 3),
    Plan(2, 2, 6, "zeropp", 2, dp_shard=2, max_resident=1),
    Plan(2, 2, 6, "zb-v", dp_shard=2, max_resident=1, shard="step"),
    Plan(1, 2, 6, "zeropp", 3, dp_shard=2, dp_replicate=2, max_resident=1),
)
FURTHER_LAYOUTS = (
    Plan(2, 1, 6, "zeropp", 3),
    Plan(1, 2, 6, "zeropp", 2, dp_shard=2, max_resident=1),
    Plan(2, 2, 6, "zeropp", 4, dp_shard=2, max_resident=1, shard="step"),
    Plan(2, 2, 6, "zb-v", dp_shard=2, max_resident=1),
)


def _orders(chunks: int) -> list[tuple[str, int | None, str | None]]:
    every: list[tuple[str, int | None, str | None]]
    every = [("zeropp", unit, "drain") for unit in range(1, 8)]
    every += [("zeropp", unit, seam) for seam in ("eager", "strict") for unit in (1, 2, 4)]
    every += [("interleaved-1f1b", None, None), ("breadth-first", None, None)]
    alone = [("gpipe", None, None), ("1f1b", None, None)], [("vee", None, None)]
    return every + list(alone[chunks - 1])


def _ordered() -> list[Plan]:
    """Every unit size of 7 micro-batches and the peers' orders; where parameters are sharded, on
    one rank in every policy, on a pipeline in two of the four, in turn.
    """
    plans = []
    for (pp, dp), chunks in itertools.product(((1, 1), (2, 1), (4, 1), (1, 2), (2, 2)), (1, 2)):
        for number, (name, unit, seam) in enumerate(_orders(chunks)):
            if dp == 1:
                plans.append(Plan(pp, chunks, 7, name, unit, seam))
            elif unit in (None, 1, 3, 4, 7):
                sharded = _sharded(Plan(pp, chunks, 7, name, unit, seam, dp_shard=dp))
                plans += sharded if pp == 1 else sharded[number % 2 :: 2]
    return plans


def _further() -> list[Plan]:
    """On a pipeline the other two policies."""
    held = _ordered()
    halves = [plan for plan in held if plan.world_size == 4 and plan.dp_shard == 2]
    every = dict.fromkeys(other for plan in halves for other in _sharded(plan))
    return [plan for plan in every if plan not in held]


def _sharded(plan: Plan) -> list[Plan]:
    policies = ("unit", 1), ("unit", 2), ("step", 2), ("microbatch", 2)
    return [replace(plan, shard=shard, max_resident=most) for shard, most in policies]


def _alternating(plans: list[Plan]) -> list[Case]:
    """Without bias where the schedule has no unit, or one of 2 or 5."""
    bare = [plan for plan in plans if plan.unit_size in (None, 2, 5)]
    return [Case(GPT, plan) for plan in plans] + [Case(GPT_NO_BIAS, plan) for plan in bare]


def _layouts(feature: Feature) -> tuple[Plan, ...]:
    """Where blocks are compiled, which takes each rank seconds, fewer."""
    return (LAYOUTS[1], *LAYOUTS[5:]) if feature.compiled else LAYOUTS


def _further_layouts(feature: Feature) -> list[Plan]:
    return [p for p in (*LAYOUTS, *FURTHER_LAYOUTS) if p not in _layouts(feature)]


GRIDS: Mapping[str, list[Case]] = {
    "features": [Case(feature, plan) for feature in FEATURES for plan in _layouts(feature)],
    "features, further": [Case(f, plan) for f in FEATURES for plan in _further_layouts(f)],
    "orders": _alternating(_ordered()),
    "orders, further": _alternating(_further()),
    "bf16": [Case(GPT_BF16, plan) for plan in _ordered() if plan.unit_size in (None, 3)],
    "bf16, further": [Case(GPT_BF16, p) for p in _further() if p.unit_size in (None, 3)],
    "steps": [
        Case(CLIPPED, Plan(pp, chunks, 7, "zeropp", unit, dp_shard=dp, shard=shard, max_resident=1))
        for pp, dp in ((1, 1), (2, 1), (4, 1), (1, 2), (2, 2))
        for chunks, unit, shard in ((1, 7, "unit"), (2, 3, "unit"), (2, 2, "step"))
    ],
    "kinds of layers": [
        Case(feature, Plan(1, 2, 4, name, dp_shard=dp, max_resident=1, recompute=recompute))
        for dp in (1, 2)
        for feature in KINDS
        for recompute in ("none", "selective", "full")
        for name in ("zeropp", "breadth-first")
    ],
}


def relative_error(got: Tensor, wanted: Tensor) -> float:
    return float((got.cpu() - wanted).norm() / wanted.norm().clamp_min(1e-12))


def whole(tensor: Tensor) -> Tensor:
    """The values of all ranks, in fp32; `full_tensor` can crash on gloo (docs/compat.md)."""
    return wholes({"": tensor})[""]


def wholes(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same of several that are sharded alike, in one exchange."""
    sharded = {name: t.detach() for name, t in tensors.items() if isinstance(t, DTensor)}
    found = {n: t.detach().float() for n, t in tensors.items() if n not in sharded}
    if sharded:
        first = next(iter(sharded.values()))
        group = first.device_mesh.get_group(_sharded_axis(first))
        parts: list[Any] = [None] * dist.get_world_size(group)
        own = {name: tensor.to_local().cpu() for name, tensor in sharded.items()}
        dist.all_gather_object(parts, own, group)
        for name, tensor in sharded.items():
            dim = tensor.placements[_sharded_axis(tensor)].dim
            found[name] = torch.cat([part[name] for part in parts], dim).float()
    return found


def _sharded_axis(tensor: Any) -> int:
    (axis,) = (i for i, placement in enumerate(tensor.placements) if placement.is_shard())
    return axis


class Plain:
    """The same model in one process, by autograd alone."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        self.blocks = blocks
        self.asks = [asked_by(block) for block in blocks]
        modules = [m for block in blocks for m in block.modules()]
        self.auxiliary = [m for m in modules if isinstance(m, AuxiliaryLoss)]

    def parameters(self) -> dict[str, nn.Parameter]:
        return {
            f"{i}.{name}": p
            for i, block in enumerate(self.blocks)
            for name, p in block.named_parameters()
        }

    def losses(self, batch: Batch, named: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Mean loss per token, and the same of the auxiliary losses."""
        total, extra, tokens = torch.zeros(()), torch.zeros(()), 0
        for inputs, targets in batch:
            x: Any = inputs
            for block, asked in zip(self.blocks, self.asks, strict=True):
                given = {name: named[name] for name in asked}
                x = block(*x, **given) if isinstance(x, tuple) else block(x, **given)
            total = total + loss_sum(x, targets)
            extra = extra + sum(m.loss for m in self.auxiliary if m.loss is not None)
            tokens += valid(targets)
        return total / max(tokens, 1), extra / max(tokens, 1)


def gradient_errors(plain: Plain, pipe: Pipeline) -> dict[str, float]:
    """Relative error of every gradient that this rank holds, by name."""
    wanted = {name: parameter.grad for name, parameter in plain.parameters().items()}
    return _compared(wanted, pipe)


def _compared(wanted: Mapping[str, Tensor | None], pipe: Pipeline) -> dict[str, float]:
    made = {name: p.grad for name, p in pipe.named_parameters() if p.grad is not None}
    found, errors = wholes(made), {}
    for name, _ in pipe.named_parameters():
        gradient = wanted[name]
        if gradient is None:  # where parameters are sharded, unused ones get zeros
            assert name not in found or not found[name].any(), f"{name}: a gradient"
        else:
            assert name in found, f"{name} has no gradient"
            errors[name] = relative_error(found[name].cpu(), gradient)
    return errors


def make(case: Case, mesh: DeviceMesh | None = None) -> Pipeline:
    torch.manual_seed(3)
    blocks = case.feature.blocks()
    feature = case.feature
    return pipeline(
        blocks, loss_sum, case.plan, mesh, precision=feature.precision, derived=feature.derived
    )


def batches(case: Case, step: int = 0) -> list[Batch]:
    """One for each data rank."""
    generator = torch.Generator().manual_seed(100 + step)
    return [
        case.feature.batch(case.plan.num_microbatches, generator) for _ in range(case.plan.dp_size)
    ]


def own_batch(case: Case, pipe: Pipeline, step: int = 0) -> Any:
    """This data rank's, to be cut by the pipeline where its micro-batches are alike."""
    own = batches(case, step)[data_rank(pipe.mesh)]
    if len({inputs.shape for inputs, _ in own}) == 1:
        return *joined(own), case.feature.keywords(joined(own)[0])
    return [(*pair, case.feature.keywords(pair[0])) for pair in own]


def joined(batch: Batch) -> tuple[Tensor, Tensor]:
    inputs, targets = (torch.cat(parts) for parts in zip(*batch, strict=True))
    return inputs, targets


class Wanted(NamedTuple):
    """What plain PyTorch finds: of each step its losses, then all gradients and buffers."""

    losses: list[tuple[Tensor, Tensor]]
    gradients: dict[str, Tensor | None]
    buffers: dict[str, Tensor]


@cache
def _wanted(feature: Feature, microbatches: int, data_ranks: int, steps: int) -> Wanted:
    """Micro-batch by micro-batch, gradients summed in fp32."""
    case = Case(feature, Plan(1, 1, microbatches, dp_shard=data_ranks))
    plain, losses = _plain(feature), []
    sums: dict[nn.Parameter, Tensor] = {}
    for step in range(steps):
        loss, extra = torch.zeros(()), torch.zeros(())
        for one in _plain_parts(case, plain, step):
            for parameter in plain.parameters().values():
                if parameter.grad is not None:
                    gradient, parameter.grad = parameter.grad.float(), None
                    sums[parameter] = sums.get(parameter, 0) + gradient
            loss, extra = loss + one[0], extra + one[1]
        losses.append((loss, extra))
    buffers = {
        f"{i}.{n}": b for i, block in enumerate(plain.blocks) for n, b in block.named_buffers()
    }
    gradients = {name: sums.get(p) for name, p in plain.parameters().items()}
    return Wanted(losses, gradients, buffers)


def trains(case: Case) -> bool:
    """Whether plain PyTorch does; what is changed in place may be needed by its backward."""
    plan = case.plan
    try:
        _wanted(case.feature, plan.num_microbatches, plan.dp_size, 1)
    except RuntimeError:
        return False
    return True


def _plain(feature: Feature) -> Plain:
    torch.manual_seed(3)
    return Plain(copy.deepcopy(feature.blocks()))  # a copy is not compiled


def _plain_parts(case: Case, plain: Plain, step: int) -> Iterator[tuple[Tensor, Tensor]]:
    """After the backward of each micro-batch, what it adds to the losses."""
    every = batches(case, step)
    tokens = sum(valid(targets) for batch in every for _, targets in batch)
    modules = [m for block in plain.blocks for m in block.modules()]
    start = [(m, name, b.clone()) for m in modules for name, b in m._buffers.items()]
    for batch in every:
        for module, name, before in start:  # each data rank has buffers of its own
            module._buffers[name] = before.clone()
        for pair in batch:
            share = valid(pair[1]) / max(tokens, 1)
            loss, extra = plain.losses([pair], case.feature.named(pair[0]))
            ((loss + extra) * share).backward()
            yield loss.detach() * share, extra.detach() * share


def _plain_step(case: Case, plain: Plain, step: int) -> tuple[Tensor, Tensor]:
    losses, extras = zip(*_plain_parts(case, plain, step), strict=True)
    return sum(losses, torch.zeros(())), sum(extras, torch.zeros(()))


def valid(targets: Tensor) -> int:
    """Targets that count."""
    return int((targets != -100).sum())


def errors_of(case: Case, mesh: DeviceMesh) -> dict[str, float]:
    """Relative error of losses and of every tensor that this rank holds, by name."""
    feature = case.feature
    case = Case(feature, replace(case.plan, **feature.plan))
    pipe = make(case, mesh)
    try:
        if feature.steps:
            return _training(case, pipe)
        steps = 2 if feature.evaluates else 1
        plan = case.plan
        wanted = _wanted(feature, plan.num_microbatches, plan.dp_size, steps)
        errors: dict[str, float] = {}
        for step, losses in enumerate(wanted.losses):  # a second adds to the first's gradients
            errors |= _one_step(case, pipe, step, *losses)
            if feature.evaluates:
                errors |= _evaluation(case, pipe)
        if plan.dp_size == 1:  # ranks with other data have other statistics
            for name, buffer in _buffers(pipe):
                errors[name] = relative_error(buffer, wanted.buffers[name].float())
        return errors | _compared(wanted.gradients, pipe)
    finally:
        pipe.close()


def _buffers(pipe: Pipeline) -> list[tuple[str, Tensor]]:
    return [(n, b.float()) for module in pipe.modules for n, b in module.named_buffers()]


def _one_step(
    case: Case, pipe: Pipeline, step: int, loss: Tensor, extra: Tensor
) -> dict[str, float]:
    constants = case.feature.constants() if pipe.rank == 0 else None
    out = pipe.step(own_batch(case, pipe, step), constants=constants)
    errors = {f"loss {step}": relative_error(out.loss, loss)}
    if extra != 0:
        errors[f"auxiliary {step}"] = relative_error(out.auxiliary, extra)
    return errors


def _evaluation(case: Case, pipe: Pipeline) -> dict[str, float]:
    every = batches(case, step=9)
    with torch.no_grad():
        loss, _ = _plain(case.feature).losses([pair for batch in every for pair in batch], {})
    own = joined(every[data_rank(pipe.mesh)])
    out = pipe.eval(own, 5, metrics={"again": loss_sum})
    return {
        "evaluated loss": relative_error(out.loss, loss),
        "evaluated metric": relative_error(out.metrics["again"], loss),
    }


def _training(case: Case, pipe: Pipeline) -> dict[str, float]:
    plain = _plain(case.feature)
    ours = torch.optim.AdamW(pipe.parameters(), lr=1e-2, eps=1e-4)
    unique = list(dict.fromkeys(plain.parameters().values()))
    theirs = torch.optim.AdamW(unique, lr=1e-2, eps=1e-4)
    errors: dict[str, float] = {}
    for step in range(case.feature.steps):
        errors |= _one_step(case, pipe, step, *_plain_step(case, plain, step))
        norm = torch.nn.utils.clip_grad_norm_(unique, 0.5)
        errors[f"norm {step}"] = relative_error(pipe.clip_grad_norm_(0.5), norm.detach())
        for optimizer in (theirs, ours):
            optimizer.step()
            optimizer.zero_grad()
    for name, values in wholes(dict(pipe.named_parameters())).items():
        errors[name] = relative_error(values, plain.parameters()[name].detach())
    return errors


def cases_of(grid: str, world_size: int) -> list[Case]:
    """Those of so many ranks."""
    return [case for case in GRIDS[grid] if case.plan.world_size == world_size]


def measure(grid: str, world_size: int, part: slice = slice(None)) -> dict[str, dict[str, float]]:
    """On this rank, the errors of some cases of so many ranks; one mesh for each shape."""
    found = {}
    meshes: dict[tuple[int, int, int], DeviceMesh] = {}
    for case in cases_of(grid, world_size)[part]:
        shape = (case.plan.pp_size, case.plan.dp_replicate, case.plan.dp_shard)
        if shape not in meshes:
            meshes[shape] = make_mesh(*shape)
        try:
            found[str(case)] = errors_of(case, meshes[shape])
        except Exception as error:
            raise RuntimeError(f"{case}, rank {dist.get_rank()}") from error
        if case.feature.compiled:  # or later models share code, or pass the limit and run eagerly
            torch.compiler.reset()
    return found

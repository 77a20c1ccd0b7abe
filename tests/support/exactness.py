"""The matrix of exactness: every feature in every layout against plain PyTorch in one process."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from support.features import FEATURES, Batch, Feature, loss_sum
from support.parity import relative_error, whole
from zeropp import AuxiliaryLoss
from zeropp.build import pipeline
from zeropp.plan import Plan
from zeropp.runtime.inputs import constants_of
from zeropp.runtime.mesh import data_rank, make_mesh
from zeropp.runtime.pipeline import Pipeline

B = 6


@dataclass(frozen=True)
class Layout:
    """How a model is laid over ranks."""

    P: int
    V: int
    shard: int = 1
    replicate: int = 1
    U: int | None = None
    schedule: str = "zeropp"
    policy: str = "unit"

    @property
    def world_size(self) -> int:
        return self.P * self.shard * self.replicate

    def __str__(self) -> str:
        D = f"{self.replicate}x{self.shard}" if self.replicate > 1 else str(self.shard)
        U = "-" if self.U is None else str(self.U)
        policy = f" {self.policy}" if self.shard * self.replicate > 1 else ""
        return f"{self.schedule} P={self.P} V={self.V} D={D} U={U}{policy}"

    def plan(self, feature: Feature) -> Plan:
        return Plan(
            self.P,
            self.V,
            B,
            self.schedule,
            self.U,
            dp_shard=self.shard,
            dp_replicate=self.replicate,
            shard=self.policy,
            max_resident=1,
            **feature.plan,
        )


LAYOUTS = (
    Layout(1, 1, U=6),
    Layout(1, 2, U=4),
    Layout(2, 1, U=3),
    Layout(2, 4, U=2),
    Layout(2, 2, schedule="zb-v"),
    Layout(1, 2, shard=2, U=2),
    Layout(1, 2, shard=2, U=6, policy="microbatch"),
    Layout(4, 2, U=3),
    Layout(2, 2, shard=2, U=2),
    Layout(2, 2, shard=2, U=4, policy="step"),
    Layout(2, 2, shard=2, schedule="zb-v"),
    Layout(1, 2, shard=2, replicate=2, U=3),
)


class Plain:
    """The same model in one process, by autograd alone."""

    def __init__(self, blocks: list[nn.Module]) -> None:
        self.blocks = blocks
        self.asks = [constants_of(block) for block in blocks]
        modules = [m for block in blocks for m in block.modules()]
        self.auxiliary = [m for m in modules if isinstance(m, AuxiliaryLoss)]

    def parameters(self) -> dict[str, nn.Parameter]:
        return {
            f"{i}.{name}": p
            for i, block in enumerate(self.blocks)
            for name, p in block.named_parameters()
        }

    def losses(self, batch: Batch, constants: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Mean loss per token, and the same of the auxiliary losses."""
        total, extra, tokens = torch.zeros(()), torch.zeros(()), 0
        for inputs, targets in batch:
            x: Any = inputs
            for block, asked in zip(self.blocks, self.asks, strict=True):
                given = {name: constants[name] for name in asked}
                x = block(*x, **given) if isinstance(x, tuple) else block(x, **given)
            total = total + loss_sum(x, targets)
            extra = extra + sum(m.loss for m in self.auxiliary if m.loss is not None)
            tokens += targets.numel()
        return total / tokens, extra / tokens


def errors_of(feature: Feature, layout: Layout, mesh: DeviceMesh) -> dict[str, float]:
    """Relative error of losses and of every tensor that this rank holds, by name."""
    torch.manual_seed(3)
    blocks = feature.blocks()
    plain = Plain(copy.deepcopy(blocks))
    pipe = pipeline(blocks, loss_sum, layout.plan(feature), mesh)
    try:
        if feature.steps:
            return _training(feature, layout, plain, pipe)
        errors = _one_step(feature, layout, plain, pipe, 0)
        if feature.evaluates:
            errors |= _evaluation(feature, layout, plain, pipe)
            errors |= _one_step(feature, layout, plain, pipe, 1)  # adds to the first's gradients
        return errors | _gradients(plain, pipe)
    finally:
        pipe.close()


def _batches(feature: Feature, layout: Layout, step: int) -> list[Batch]:
    """One for each data rank."""
    generator = torch.Generator().manual_seed(100 + step)
    return [feature.batch(B, generator) for _ in range(layout.shard * layout.replicate)]


def _one_step(
    feature: Feature, layout: Layout, plain: Plain, pipe: Pipeline, step: int
) -> dict[str, float]:
    batches, constants = _batches(feature, layout, step), feature.constants()
    loss, extra = plain.losses([pair for batch in batches for pair in batch], constants)
    (loss + extra).backward()
    given = constants if pipe.rank == 0 else None
    out = pipe.step(batches[data_rank(pipe.mesh)], constants=given)
    errors = {f"loss {step}": relative_error(out.loss, loss.detach())}
    if plain.auxiliary:
        errors[f"auxiliary {step}"] = relative_error(out.auxiliary, extra.detach())
    return errors


def _evaluation(feature: Feature, layout: Layout, plain: Plain, pipe: Pipeline) -> dict[str, float]:
    batches = _batches(feature, layout, 9)
    with torch.no_grad():
        loss, _ = plain.losses([pair for batch in batches for pair in batch], {})
    batch = batches[data_rank(pipe.mesh)]
    inputs, targets = (torch.cat(parts) for parts in zip(*batch, strict=True))
    out = pipe.eval((inputs, targets), 5, metrics={"again": loss_sum})
    return {
        "evaluated loss": relative_error(out.loss, loss),
        "evaluated metric": relative_error(out.metrics["again"], loss),
    }


def _gradients(plain: Plain, pipe: Pipeline) -> dict[str, float]:
    reference = plain.parameters()
    errors = {}
    for name, parameter in pipe.named_parameters():
        wanted = reference[name].grad
        if wanted is None:
            assert parameter.grad is None, f"{name} has a gradient"
        else:
            assert parameter.grad is not None, f"{name} has no gradient"
            errors[name] = relative_error(whole(parameter.grad), wanted)
    return errors


def _training(feature: Feature, layout: Layout, plain: Plain, pipe: Pipeline) -> dict[str, float]:
    ours = torch.optim.AdamW(pipe.parameters(), lr=1e-2, eps=1e-4)
    unique = list(dict.fromkeys(plain.parameters().values()))
    theirs = torch.optim.AdamW(unique, lr=1e-2, eps=1e-4)
    errors: dict[str, float] = {}
    for step in range(feature.steps):
        errors |= _one_step(feature, layout, plain, pipe, step)
        norm = torch.nn.utils.clip_grad_norm_(unique, 0.5)
        errors[f"norm {step}"] = relative_error(pipe.clip_grad_norm_(0.5), norm.detach())
        for optimizer in (theirs, ours):
            optimizer.step()
            optimizer.zero_grad()
    for name, parameter in pipe.named_parameters():
        errors[name] = relative_error(whole(parameter), plain.parameters()[name].detach())
    return errors


def matrix(world_size: int) -> dict[tuple[str, str], float]:
    """The worst error on this rank of every feature and layout of so many ranks."""
    found = {}
    meshes: dict[tuple[int, int, int], DeviceMesh] = {}
    for layout in LAYOUTS:
        if layout.world_size != world_size:
            continue
        shape = (layout.P, layout.replicate, layout.shard)
        for feature in FEATURES:
            if shape not in meshes:
                meshes[shape] = make_mesh(*shape)
            try:
                errors = errors_of(feature, layout, meshes[shape])
            except Exception as error:
                where = f"{feature.name}, {layout}, rank {dist.get_rank()}"
                raise RuntimeError(where) from error
            torch.compiler.reset()  # or later models share code, or pass the limit and run eagerly
            found[feature.name, str(layout)] = max(errors.values())
    return found

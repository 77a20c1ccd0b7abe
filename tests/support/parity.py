"""Cases of gradient parity: a small GPT through a pipeline against plain PyTorch."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor

from zeropp.build import pipeline
from zeropp.ir.model import GPTConfig
from zeropp.models import gpt_blocks, init_block
from zeropp.plan import Plan
from zeropp.runtime.mesh import data_rank, data_size, make_mesh
from zeropp.runtime.pipeline import Pipeline

VOCAB, SEQ = 61, 8


@dataclass(frozen=True)
class Case:
    """One pipeline to compare; `layers` decoder layers plus embedding and head."""

    plan: Plan
    bias: bool = True
    layers: int = 6
    param_dtype: torch.dtype = torch.float32
    reduce_dtype: torch.dtype | None = None
    steps: int = 0

    def __str__(self) -> str:
        p = self.plan
        unit = "" if p.unit_size is None else f"-U{p.unit_size}"
        sizes = f"P{p.pp_size}-V{p.num_chunks}-D{p.dp_size}-B{p.num_microbatches}{unit}"
        sharding = f"-{p.shard}{p.max_resident}" if p.dp_size > 1 else ""
        seam = "" if p.seam is None else f"-{p.seam}"
        return f"{p.schedule}{seam}-{sizes}{sharding}{'-bias' if self.bias else ''}"


def token_loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum")


def make_blocks(case: Case) -> list[nn.Module]:
    config = GPTConfig(
        vocab_size=VOCAB, seq_len=SEQ, layers=case.layers, hidden=16, heads=2, bias=case.bias
    )
    blocks = gpt_blocks(config)
    for index, block in enumerate(blocks):
        init_block(block, config, index, seed=7)
        for parameter in block.parameters():  # no zeros: every gradient must matter
            parameter.data += 0.02 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(index)
            )
        block.to(case.param_dtype)
    return blocks


def batch(case: Case, step: int = 0) -> tuple[Tensor, Tensor]:
    """The batch of all data-parallel ranks: two samples per micro-batch and rank."""
    samples = 2 * case.plan.num_microbatches * case.plan.dp_size
    generator = torch.Generator().manual_seed(100 + step)
    inputs = torch.randint(VOCAB, (samples, SEQ), generator=generator)
    return inputs, torch.randint(VOCAB, (samples, SEQ), generator=generator)


class Plain:
    """The same model in one process, by autograd alone."""

    def __init__(self, case: Case) -> None:
        self.blocks = [block.float() for block in make_blocks(case)]

    def parameters(self) -> dict[str, nn.Parameter]:
        return {f"{i}.{n}": p for i, b in enumerate(self.blocks) for n, p in b.named_parameters()}

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        x = inputs
        for block in self.blocks:
            x = block(x)
        return token_loss(x, targets) / targets.numel()


def whole(tensor: Tensor) -> Tensor:
    """The values of all ranks, in fp32; `full_tensor` can crash on gloo (docs/compat.md)."""
    tensor = tensor.detach()
    if not isinstance(tensor, DTensor):
        return tensor.float()
    (axis,) = (i for i, placement in enumerate(tensor.placements) if placement.is_shard())
    group = tensor.device_mesh.get_group(axis)
    parts: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(parts, tensor.to_local(), group)
    return torch.cat(parts, tensor.placements[axis].dim).float()


def relative_error(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).norm() / wanted.norm().clamp_min(1e-12))


def make_pipeline(case: Case, mesh: DeviceMesh | None) -> Pipeline:
    precision = MixedPrecisionPolicy(reduce_dtype=case.reduce_dtype)
    return pipeline(make_blocks(case), token_loss, case.plan, mesh, precision=precision)


def own_part(pipe: Pipeline, whole_batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    shard = data_rank(pipe.mesh)
    inputs, targets = (t.chunk(data_size(pipe.mesh))[shard] for t in whole_batch)
    return inputs, targets


def gradient_errors(case: Case, mesh: DeviceMesh | None = None) -> dict[str, float]:
    """Relative error of the loss and of every gradient that this rank holds, by name."""
    plain = Plain(case)
    inputs, targets = batch(case)
    wanted = plain.loss(inputs, targets)
    wanted.backward()
    pipe = make_pipeline(case, mesh)
    out = pipe.step(own_part(pipe, (inputs, targets)))
    errors = {"loss": relative_error(out.loss, wanted.detach())}
    reference = plain.parameters()
    for name, parameter in pipe.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        errors[name] = relative_error(whole(parameter.grad), reference[name].grad)
    pipe.close()
    return errors


def training_errors(case: Case, mesh: DeviceMesh | None = None) -> dict[str, float]:
    """Relative error of loss, norm and parameters after steps of AdamW with clipping."""
    plain = Plain(case)
    pipe = make_pipeline(case, mesh)
    theirs = torch.optim.AdamW(plain.parameters().values(), lr=1e-2, eps=1e-4)
    ours = torch.optim.AdamW(pipe.parameters(), lr=1e-2, eps=1e-4)
    errors: dict[str, float] = {}
    for step in range(case.steps):
        inputs, targets = batch(case, step)
        wanted = plain.loss(inputs, targets)
        wanted.backward()
        norm = torch.nn.utils.clip_grad_norm_(plain.parameters().values(), 0.5)
        out = pipe.step(own_part(pipe, (inputs, targets)))
        own_norm = pipe.clip_grad_norm_(0.5)
        for optimizer in (theirs, ours):
            optimizer.step()
            optimizer.zero_grad()
        errors[f"loss {step}"] = relative_error(out.loss, wanted.detach())
        errors[f"norm {step}"] = relative_error(own_norm, norm.detach())
    for name, parameter in pipe.named_parameters():
        errors[name] = relative_error(whole(parameter), plain.parameters()[name].detach())
    pipe.close()
    return errors


def run_cases(cases: list[Case], measure: Any = gradient_errors) -> list[dict[str, float]]:
    """Measure many cases in one set of processes; one mesh for each shape."""
    meshes: dict[tuple[int, int, int], DeviceMesh] = {}
    results = []
    for case in cases:
        shape = (case.plan.pp_size, case.plan.dp_replicate, case.plan.dp_shard)
        if shape not in meshes:
            meshes[shape] = make_mesh(*shape)
        try:
            results.append(measure(case, meshes[shape]))
        except Exception as error:
            raise RuntimeError(f"{case} failed on rank {dist.get_rank()}") from error
    return results

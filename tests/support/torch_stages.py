"""A small GPT as torch's `PipelineStage`s, beside plain PyTorch on the same batches."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.pipelining import PipelineStage
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from support.exactness import relative_error, whole
from zeropp.ir import Placement, Shape, stage_blocks
from zeropp.ir.model import GPTConfig
from zeropp.models.gpt import gpt_blocks, init_block

CONFIG = GPTConfig(vocab_size=19, seq_len=6, layers=6, hidden=8, heads=2)
ROWS, STEPS = 2, 3  # of a micro-batch; the third step adds to the second's gradients
CPU = torch.device("cpu")
_PRODUCTS = [torch.ops.aten.mm.default, torch.ops.aten.addmm.default]


class Recomputed(nn.Module):
    """A block that keeps its matrix products alone, as torchtitan's by default."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        contexts = partial(create_selective_checkpoint_contexts, _PRODUCTS)
        made: Tensor = checkpoint(self.block, x, use_reentrant=False, context_fn=contexts)
        return made


def loss_mean(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten())


@dataclass(frozen=True)
class Staged:
    """A pipeline of torch's stages, and the options of `ScheduleZeroPP`."""

    P: int
    V: int
    B: int
    options: dict[str, Any] = field(default_factory=dict)
    D: int = 1
    vee: bool = False
    recompute: bool = False
    low: bool = False  # computed in bf16, reduced in fp32

    def __str__(self) -> str:
        named = " ".join(f"{key}={value}" for key, value in self.options.items())
        more = " ".join(name for name in ("vee", "recompute", "low") if getattr(self, name))
        return f"P={self.P} V={self.V} B={self.B} D={self.D} {named} {more}".rstrip()

    @property
    def placement(self) -> Placement:
        return Placement(Shape.VEE if self.vee else Shape.LOOP, self.P, self.V)

    def stages(self, mesh: DeviceMesh) -> list[PipelineStage]:
        """This rank's, each block of them sharded by itself and all once more, where D > 1."""
        group, found = mesh["pp"].get_group(), []
        cut, blocks = stage_blocks(CONFIG.layers + 2, self.P * self.V), model(self.recompute)
        for stage in self.placement.stages_of(group.rank()):
            own = OrderedDict((str(i), blocks[i]) for i in cut[stage])
            module = nn.Sequential(own)
            if self.D > 1:
                shard([*module, module], mesh["dp"], self.low)
            found.append(PipelineStage(module, stage, len(cut), CPU, group=group))
        return found


def shard(modules: Sequence[nn.Module], mesh: DeviceMesh, low: bool = False) -> None:
    """As users of FSDP2 have it in a pipeline; gloo has no mean."""
    dtypes = (torch.bfloat16, torch.float32) if low else (None, None)
    for module in modules:
        policy = MixedPrecisionPolicy(*dtypes)
        sharded: FSDPModule = fully_shard(
            module, mesh=mesh, mp_policy=policy, reshard_after_forward=False
        )
        sharded.set_force_sum_reduction_for_comms(True)


def model(recompute: bool = False) -> list[nn.Module]:
    blocks = gpt_blocks(CONFIG)
    for index, block in enumerate(blocks):
        init_block(block, CONFIG, index, seed=5)
    inner = [Recomputed(block) if recompute else block for block in blocks[1:-1]]
    return [blocks[0], *inner, blocks[-1]]


def batch(B: int, step: int, rank: int) -> tuple[Tensor, Tensor]:
    """Of a data rank; every step's is another."""
    generator = torch.Generator().manual_seed(100 * step + rank)
    tokens = torch.randint(CONFIG.vocab_size, (B * ROWS, CONFIG.seq_len + 1), generator=generator)
    return tokens[:, :-1], tokens[:, 1:]


@cache
def plain(B: int, D: int) -> list[tuple[list[list[float]], dict[str, Tensor]]]:
    """Of each step: every data rank's losses by micro-batch, and the gradients afterwards."""
    torch.manual_seed(0)
    blocks = nn.Sequential(OrderedDict((str(i), b) for i, b in enumerate(model())))
    found = []
    for step in range(STEPS):
        losses: list[list[float]] = []
        if step < 2:
            blocks.zero_grad()
        for rank in range(D):
            parts = [part.chunk(B) for part in batch(B, step, rank)]
            each = [loss_mean(blocks(x), y) for x, y in zip(*parts, strict=True)]
            (torch.stack(each).sum() / (B * D)).backward()
            losses.append([float(loss.detach()) for loss in each])
        gradients = {n: p.grad.clone() for n, p in blocks.named_parameters() if p.grad is not None}
        found.append((losses, gradients))
    return found


def gradients(modules: Sequence[nn.Module]) -> Iterator[tuple[str, nn.Parameter]]:
    """This rank's parameters, by global name."""
    for module in modules:
        for name, parameter in module.named_parameters():
            yield name.replace(".block.", "."), parameter


def errors_of(
    staged: Staged, schedule: Any, stages: Sequence[PipelineStage], rank: int, steps: int = STEPS
) -> dict[str, float]:
    """Relative error of every loss and gradient of this rank in some steps, evaluating between."""
    found: dict[str, float] = {}
    modules = [stage.submod for stage in stages]
    last = any(stage.is_last for stage in stages)
    for step, (losses, wanted) in enumerate(plain(staged.B, staged.D)[:steps]):
        inputs, targets = batch(staged.B, step, rank)
        given = (inputs,) if any(stage.is_first for stage in stages) else ()
        for module in modules if step < 2 else ():
            module.zero_grad()
        for run in (schedule.eval, schedule.step):
            got: list[Tensor] = []
            run(*given, target=targets if last else None, losses=got)
            if last:
                own = torch.stack(got).detach()
                name = f"{run.__name__} loss {step}"
                found[name] = relative_error(own, torch.tensor(losses[rank]))
        for name, parameter in gradients(modules):
            assert parameter.grad is not None, name
            found[f"{name} {step}"] = relative_error(whole(parameter.grad), wanted[name])
    return found


@cache
def mesh_of(P: int, D: int) -> DeviceMesh:
    return init_device_mesh("cpu", (P, D), mesh_dim_names=("pp", "dp"))


def data_rank(mesh: DeviceMesh) -> int:
    return dist.get_rank(mesh["dp"].get_group())

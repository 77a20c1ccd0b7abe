"""A real GPT in either runtime, with equal weights, batch, loss and stages."""

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from sides import Side
from torch_peer import CPU, PEERS, TorchPipeline
from zeropp.ir.model import GPTConfig
from zeropp.measure.adapt import Adapter
from zeropp.measure.links import measure_hop
from zeropp.models import gpt_blocks, init_block
from zeropp.plan import Plan
from zeropp.runtime.observer import Laps
from zeropp.runtime.pipeline import Pipeline


@dataclass(frozen=True)
class Task:
    """What every side trains: a model and a batch of `B` micro-batches of `samples` sequences."""

    config: GPTConfig
    B: int
    samples: int

    @property
    def tokens(self) -> int:
        """In a step."""
        return self.B * self.samples * self.config.seq_len

    def blocks(self) -> list[nn.Module]:
        """The model, always with the same weights."""
        blocks = gpt_blocks(self.config)
        for index, block in enumerate(blocks):
            init_block(block, self.config, index, seed=0)
        return blocks

    def batch(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets, always the same."""
        generator = torch.Generator().manual_seed(1)
        shape = (self.B * self.samples, self.config.seq_len)
        inputs, targets = (
            torch.randint(self.config.vocab_size, shape, generator=generator) for _ in range(2)
        )
        return inputs, targets

    def plain_step(self) -> tuple[float, dict[str, Tensor]]:
        """The loss and every gradient by plain PyTorch, micro-batch by micro-batch."""
        blocks, total = self.blocks(), 0.0
        for inputs, targets in zip(*(t.chunk(self.B) for t in self.batch()), strict=True):
            x = inputs
            for block in blocks:
                x = block(x)
            loss = summed_loss(x, targets) / self.tokens
            loss.backward()
            total += float(loss.detach())
        model = nn.Sequential(*blocks)
        return total, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def summed_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Over a micro-batch's tokens."""
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")


def _share_of_loss(tokens: int, logits: Tensor, targets: Tensor) -> Tensor:
    return summed_loss(logits, targets) / tokens


class Running:
    """One side on this rank.

    Args:
        task: what it trains.
        side: which schedule, in which runtime.
        plan: for our runtime; None: the side's own.

    Attributes:
        torch_pipeline: torch's, on its sides.
        pipeline: ours, on our sides.
    """

    def __init__(self, task: Task, side: Side, plan: Plan | None = None) -> None:
        self.side, self._batch = side, task.batch()
        self.pipeline: Pipeline | None = None
        self.torch_pipeline: TorchPipeline | None = None
        blocks = task.blocks()
        if side.ours:
            plan = plan or side.plan(dist.get_world_size(), task.B)
            self.pipeline = Pipeline(blocks, summed_loss, plan, device=CPU)
            self._modules: list[nn.Module] = list(self.pipeline.modules)
        else:
            stages = _stages(blocks, side.V)
            loss = partial(_share_of_loss, task.tokens)
            self.torch_pipeline = TorchPipeline(PEERS[side.name], stages, loss, task.B)
            self._modules = self.torch_pipeline.modules

    def step(self, trace: Laps | None = None) -> float | None:
        """One step; the loss, with torch on the rank of the last stage only."""
        if self.pipeline is not None:
            return float(self.pipeline.step(self._batch, trace=trace).loss)
        assert self.torch_pipeline is not None
        return self.torch_pipeline.step(*self._batch)

    def adapt(self, steps: int) -> None:
        """Measure so many steps and run the best order for their times; ours only, collective."""
        assert self.pipeline is not None
        latency, _ = measure_hop(0, dist.get_world_size() - 1, 4096, CPU)
        adapter = Adapter(self.pipeline, every=steps, gain=1e-3, latency=latency)
        for _ in range(steps):
            self.forget_gradients()
            self.step(adapter.times)
            adapter.after_step()

    def gradients(self) -> dict[str, Tensor]:
        """Of this rank's parameters, by global name."""
        named = (pair for module in self._modules for pair in module.named_parameters())
        return {name: p.grad for name, p in named if p.grad is not None}

    def forget_gradients(self) -> None:
        """As an optimizer does after its step."""
        for module in self._modules:
            module.zero_grad(set_to_none=True)

    def close(self) -> None:
        """Free its process groups."""
        if self.pipeline is not None:
            self.pipeline.close()


class Alone:
    """This rank's part of the model by itself, in plain PyTorch, with nothing to wait for.

    Args:
        task: whose blocks, cut evenly, and whose batch.
    """

    def __init__(self, task: Task) -> None:
        rank, last = dist.get_rank(), dist.get_world_size() - 1
        self._part = _stages(task.blocks(), 1)[rank]
        inputs, targets = (tensor.chunk(task.B) for tensor in task.batch())
        self._targets = targets if rank == last else None
        wide = (*inputs[0].shape, task.config.hidden)
        given = torch.randn(wide, generator=torch.Generator().manual_seed(2))
        self._inputs = list(inputs) if rank == 0 else [given] * task.B

    def step(self) -> None:
        """Forward and backward of all micro-batches."""
        for m, given in enumerate(self._inputs):
            y = self._part(given.requires_grad_(given.is_floating_point()))
            if self._targets is not None:
                y = summed_loss(y, self._targets[m])
            y.backward(torch.ones_like(y))

    def forget_gradients(self) -> None:
        """As an optimizer does after its step."""
        self._part.zero_grad(set_to_none=True)


def _stages(blocks: list[nn.Module], V: int) -> list[nn.Module]:
    """The same cut as our pipelines make, under the same names."""
    cut = Plan(dist.get_world_size(), V).stage_blocks(len(blocks))
    return [nn.Sequential(OrderedDict((str(i), blocks[i]) for i in stage)) for stage in cut]


def worst_error(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> float:
    """Largest relative error of any gradient that this rank holds."""
    return max(float((g - wanted[n]).norm() / wanted[n].norm()) for n, g in found.items())


def require_equal(running: Running, loss: float, wanted: dict[str, Tensor]) -> None:
    """Refuse a side whose step gives another loss, or other gradients, than plain PyTorch.

    Raises:
        AssertionError: more than 1e-5 off.
    """
    running.forget_gradients()
    own = running.step()
    error = worst_error(running.gradients(), wanted)
    if own is not None:
        error = max(error, abs(own - loss) / loss)
    held = sum(1 for module in running._modules for _ in module.parameters())
    if error > 1e-5 or held != len(running.gradients()):
        raise AssertionError(f"{running.side.title} V={running.side.V} is off by {error:.1e}")

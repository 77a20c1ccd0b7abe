"""A real GPT for either runtime, with equal weights, batch, loss and stages; and without one."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from support.sides import Running, Side, forget_gradients, gradients, parameters
from support.torch_runtime import CPU, Batch
from zeropp.ir import stage_blocks
from zeropp.ir.model import GPTConfig
from zeropp.measure.adapt import Adapter
from zeropp.measure.links import measure_hop
from zeropp.models import gpt_blocks, init_block
from zeropp.plan import Plan
from zeropp.runtime.pipeline import Pipeline
from zeropp.train.gpt import token_loss


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

    def batch(self) -> Batch:
        """Inputs and targets, always the same."""
        generator = torch.Generator().manual_seed(1)
        shape = (2, self.B * self.samples, self.config.seq_len)
        inputs, targets = torch.randint(self.config.vocab_size, shape, generator=generator)
        return inputs, targets

    def start(self, side: Side, plan: Plan | None = None) -> Running:
        """The side, on this rank."""
        plan = plan or side.plan(dist.get_world_size(), self.B)
        return side.start(self.blocks(), token_loss, plan)

    def plain_step(self) -> tuple[float, dict[str, Tensor]]:
        """The loss and every gradient by plain PyTorch, micro-batch by micro-batch."""
        model, total = nn.Sequential(*self.blocks()), 0.0
        for inputs, targets in zip(*(t.chunk(self.B) for t in self.batch()), strict=True):
            loss = token_loss(model(inputs), targets) / self.tokens
            loss.backward()
            total += float(loss.detach())
        return total, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def adapt(side: Side, running: Running, batch: Batch, steps: int = 3) -> None:
    """Measure a few steps and run the best order for their times, if the side's follows them."""
    follows_times = side.seam == "carry" or side.slots is not None
    if not follows_times or not isinstance(running, Pipeline):
        return
    latency, _ = measure_hop(0, dist.get_world_size() - 1, 4096, CPU)
    plan = side.plan(dist.get_world_size(), running.num_microbatches)
    adapter = Adapter(running, plan, every=steps, gain=1e-3, latency=latency)
    for _ in range(steps):
        forget_gradients(running.modules)
        running.step(batch, observer=adapter.times)
        adapter.after_step()


class Alone:
    """This rank's part of a task's model by itself, in plain PyTorch; it waits for nobody."""

    def __init__(self, task: Task) -> None:
        rank, P = dist.get_rank(), dist.get_world_size()
        blocks = task.blocks()
        own = stage_blocks(len(blocks), P)[rank]
        self.modules = [nn.Sequential(*(blocks[i] for i in own))]
        inputs, targets = (tensor.chunk(task.B) for tensor in task.batch())
        self._targets = targets if rank == P - 1 else None
        wide = (*inputs[0].shape, task.config.hidden)
        given = torch.randn(wide, generator=torch.Generator().manual_seed(2))
        self._inputs = list(inputs) if rank == 0 else [given] * task.B

    def step(self, _: Batch) -> None:
        """Forward and backward of all micro-batches."""
        for m, given in enumerate(self._inputs):
            y = self.modules[0](given.requires_grad_(given.is_floating_point()))
            if self._targets is not None:
                y = token_loss(y, self._targets[m])
            y.backward(torch.ones_like(y))


def require_equal(
    side: Side, running: Running, batch: Batch, loss: float, wanted: dict[str, Tensor]
) -> None:
    """Refuse a side whose loss or gradients are more than 1e-5 off those of plain PyTorch."""
    forget_gradients(running.modules)
    made = running.step(batch)
    own = made if made is None or isinstance(made, float) else float(made.loss)
    found = gradients(running.modules)
    errors = [float((g - wanted[n]).norm() / wanted[n].norm()) for n, g in found.items()]
    errors.append(0.0 if own is None else abs(own - loss) / loss)
    if max(errors) > 1e-5 or len(found) != sum(1 for _ in parameters(running.modules)):
        raise AssertionError(f"{side.title} V={side.V} is off by {max(errors):.1e}")

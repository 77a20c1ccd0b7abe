"""A schedule in one of two runtimes, ours or torch.distributed.pipelining's, started on a rank."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from support.torch_runtime import CPU, PEERS, Loss, TorchPipeline
from zeropp.build import pipeline
from zeropp.costs import Costs
from zeropp.measure.trace import Trace
from zeropp.plan import Plan
from zeropp.runtime.grid import pipelines
from zeropp.runtime.pipeline import Pipeline

Running: TypeAlias = Pipeline | TorchPipeline  # on this rank


@dataclass(frozen=True)
class Side:
    """One side of a comparison: one of `PEERS` in torch's runtime, or one of our generators."""

    name: str
    V: int
    seam: str | None = None
    slots: int | None = None  # what a refined order may hold; None: it is not refined
    unit_size: int | None = None
    shard: str = "unit"  # when parameters are gathered; torch reduces once a step all the same

    @property
    def ours(self) -> bool:
        """Whether our runtime runs it."""
        return self.name not in PEERS

    @property
    def title(self) -> str:
        """For tables."""
        return f"{'' if self.ours else 'torch '}{self.name}{f' {self.seam}' if self.seam else ''}"

    def plan(self, P: int, B: int, costs: Costs | None = None, D: int = 1) -> Plan:
        """Ours, made for costs; of torch's runtime, what its sizes are."""
        if not self.ours:
            return Plan(P, self.V, B, dp_shard=D)
        knobs = self.unit_size, self.seam, self.slots, self.slots is not None
        return Plan(P, self.V, B, self.name, *knobs, dp_shard=D, shard=self.shard, costs=costs)

    def start(
        self, blocks: Sequence[nn.Module], loss: Loss, plan: Plan, mesh: DeviceMesh | None = None
    ) -> Running:
        """The model's blocks laid over all ranks; `loss` is the sum over a micro-batch's tokens."""
        if self.ours:
            return pipeline(blocks, loss, plan, mesh, device=CPU)
        return TorchPipeline(PEERS[self.name], blocks, loss, plan, mesh, self.shard)


def torch_sides(P: int, B: int, chunks: Sequence[int]) -> list[Side]:
    """Every schedule that torch has for these sizes."""
    fit = [peer for peer in PEERS.values() if peer.fewest * P <= B]
    return [Side(peer.name, V) for peer in fit for V in ([peer.chunks] if peer.chunks else chunks)]


def parameters(modules: Sequence[nn.Module]) -> Iterator[tuple[str, nn.Parameter]]:
    """Of this rank's stages, by global name."""
    return (pair for module in modules for pair in module.named_parameters())


def gradients(modules: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Of this rank's parameters, by global name."""
    return {name: p.grad for name, p in parameters(modules) if p.grad is not None}


def forget_gradients(modules: Sequence[nn.Module]) -> None:
    """As an optimizer does after its step."""
    for _, parameter in parameters(modules):
        parameter.grad = None


def seconds(step: Callable[[], object]) -> float:
    """Of a step, from when all ranks begin until all have ended."""
    dist.barrier()
    start = time.perf_counter()
    step()
    dist.barrier()
    return time.perf_counter() - start


def trace_of(running: Running) -> Trace | None:
    """For the next step, if our runtime makes it; collective."""
    return Trace(CPU) if isinstance(running, Pipeline) else None


def shares(running: Running, trace: Trace | None) -> dict[str, float]:
    """Of P x makespan: compute, and idle time by cause; collective, the same on all ranks."""
    if trace is None or not isinstance(running, Pipeline):
        return {}
    step = trace.gather(running.placement, "", pipelines(running.mesh)[0])
    idle = step.idle_ratios()
    found = {"compute": 1 - sum(idle.values())} | idle
    return {name: round(share, 4) for name, share in found.items() if share >= 5e-5}

"""One step of a case, on its rank: with this library, or with torch.distributed.pipelining."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import (
    Schedule1F1B,
    ScheduleInterleaved1F1B,
    ScheduleLoopedBFS,
)

from cluster_block import ROWS, WIDTH, EmulatedBlock, emulated_loss
from cluster_cases import TIMES, Case, V
from cluster_predict import plan_of
from zeropp.measure.trace import Trace
from zeropp.runtime.mesh import PP, SHARD, pipelines
from zeropp.runtime.pipeline import Pipeline

CPU = torch.device("cpu")


class Runner(Protocol):
    """Runs steps of one case."""

    def ready(self) -> None:
        """All ranks are about to make a step."""

    def step(self) -> None:
        """One step."""

    def idle(self) -> Mapping[str, float]:
        """Of the last step, idle time by cause / (P x makespan), where the runtime tells it."""

    def close(self) -> None:
        """Free its process groups."""


def make_runner(case: Case, mesh: DeviceMesh, batch: int) -> Runner:
    """Collective, on all ranks."""
    pp_size = mesh[PP].size()
    blocks = [EmulatedBlock(TIMES) for _ in range(pp_size * V)]
    return (_Ours if case.runtime == "zeropp" else _Torch)(case, mesh, batch, blocks)


class _Ours:
    """This library."""

    def __init__(
        self, case: Case, mesh: DeviceMesh, batch: int, blocks: list[EmulatedBlock]
    ) -> None:
        plan = plan_of(case, mesh[PP].size(), batch)
        self._pipe = Pipeline(blocks, emulated_loss, plan, mesh, device=CPU, timeout=300)
        self._data = torch.zeros(batch * ROWS, WIDTH)
        self._ranks = pipelines(mesh)[0]
        self._trace: Trace | None = None

    def ready(self) -> None:
        self._trace = Trace(CPU)

    def step(self) -> None:
        self._pipe.step((self._data, self._data), trace=self._trace)

    def idle(self) -> Mapping[str, float]:
        if self._trace is None:
            raise ValueError("no step was made")
        placement = self._pipe.plan.placement
        return self._trace.gather(placement, "", self._ranks).idle_ratios()

    def close(self) -> None:
        self._pipe.close()


class _Torch:
    """torch's runtime; stages and shards as its users make them, FSDP2 around every block."""

    def __init__(
        self, case: Case, mesh: DeviceMesh, batch: int, blocks: list[EmulatedBlock]
    ) -> None:
        rank, pp_size = mesh[PP].get_local_rank(), mesh[PP].size()
        num_stages = pp_size * case.num_chunks
        size = len(blocks) // num_stages
        stages = []
        for index in range(rank, num_stages, pp_size):
            own = blocks[index * size : (index + 1) * size]
            module = _sharded(own, mesh[SHARD], free=case.shard == "microbatch")
            group = mesh[PP].get_group()
            stages.append(PipelineStage(module, index, num_stages, CPU, group=group))
        self._schedule = _schedule(case.schedule, stages, batch)
        data = torch.zeros(batch * ROWS, WIDTH)
        self._inputs = (data,) if rank == 0 else ()
        self._targets = {"target": data} if rank == pp_size - 1 else {}

    def ready(self) -> None:
        """It has nothing to prepare."""

    def step(self) -> None:
        self._schedule.step(*self._inputs, return_outputs=False, **self._targets)

    def idle(self) -> Mapping[str, float]:
        return {}

    def close(self) -> None:
        """Its groups are the mesh's."""


def _sharded(blocks: list[EmulatedBlock], mesh: DeviceMesh, *, free: bool) -> nn.Module:
    """The stage; `free`: gather for every forward and backward."""
    stage = nn.Sequential(*blocks)
    for module in (*blocks, stage):
        sharded: FSDPModule = fully_shard(module, mesh=mesh, reshard_after_forward=free)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)  # gloo has no mean
    return stage


def _schedule(name: str, stages: list[PipelineStage], batch: int) -> Any:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return emulated_loss(outputs, targets) / (batch * ROWS * WIDTH)

    if name == "1F1B":
        return Schedule1F1B(stages[0], batch, loss, scale_grads=False)
    several = {"LoopedBFS": ScheduleLoopedBFS, "Interleaved1F1B": ScheduleInterleaved1F1B}
    return several[name](stages, batch, loss, scale_grads=False)

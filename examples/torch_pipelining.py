"""A loop on torch.distributed.pipelining, with ZeroPP's order and split in the schedule's place.

    torchrun --nproc-per-node 2 examples/torch_pipelining.py

Everything but one line is torch's: stages, messages, `step`. torch's own schedule trains the same
model beside it.
"""

from collections.abc import Sequence
from copy import deepcopy

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining import PipelineStage, ScheduleInterleaved1F1B

from zeropp.torch import ScheduleZeroPP

V, B, STEPS = 2, 8, 3


def train(layers: Sequence[nn.Module], schedule_of: type, batch: torch.Tensor) -> list[float]:
    """The losses, known on the last rank."""
    rank, P = dist.get_rank(), dist.get_world_size()
    mine = range(rank, P * V, P)
    stages = [PipelineStage(layers[s], s, P * V, torch.device("cpu")) for s in mine]
    schedule = schedule_of(stages, B, nn.functional.mse_loss)  # the one line
    optimizer = torch.optim.SGD((p for s in mine for p in layers[s].parameters()), lr=1.0)
    found = []
    for _ in range(STEPS):
        losses: list[torch.Tensor] = []
        last = {"target": batch, "losses": losses} if rank == P - 1 else {}
        schedule.step(*[batch] if rank == 0 else [], **last)
        optimizer.step()
        optimizer.zero_grad()
        if losses:
            found.append(torch.stack(losses).mean().item())
    return found


def main() -> None:
    """Train with both."""
    dist.init_process_group("gloo")  # nccl on GPUs
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(32, 32), nn.Tanh()) for _ in range(dist.get_world_size() * V)]
    batch = torch.randn(32, 32)
    for schedule_of in (ScheduleZeroPP, ScheduleInterleaved1F1B):
        if found := train(deepcopy(layers), schedule_of, batch):
            print(f"{schedule_of.__name__:24}", *(f"{loss:.4f}" for loss in found), flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

"""A schedule of one's own: written as data, proved, drawn, and trained on four ranks.

    torchrun --nproc-per-node 4 examples/own_schedule.py

1F1B's order with the backward split in two, in which rank p puts off its weight gradients by p
micro-batches and so fills the gaps that it would wait in (as ZB-H1 does, Qi et al. 2023).
"""

import torch
import torch.distributed as dist
from torch import nn

import zeropp
from zeropp.costs import Costs
from zeropp.generate import generate
from zeropp.ir import Action, Kind, Order, Placement, Program, Schedule, Shape, evaluate
from zeropp.program import lower, require_valid
from zeropp.show import draw_text

P, B = 4, 6


def order(rank: int) -> tuple[Action, ...]:
    """What rank `rank`, which holds stage `rank`, runs: first some forwards, then B, W and F."""
    warm_up = min(P - rank, B)
    actions = [Action(Kind.F, rank, m) for m in range(warm_up)]
    for m in range(B):
        actions.append(Action(Kind.B, rank, m))
        if m >= rank:
            actions.append(Action(Kind.W, rank, m - rank))
        if m + warm_up < B:
            actions.append(Action(Kind.F, rank, m + warm_up))
    return (*actions, *(Action(Kind.W, rank, m) for m in range(max(B - rank, 0), B)))


def write() -> Program:
    """The schedule, lowered to what ranks execute, and proved; an unsound one is an error."""
    placement = Placement(Shape.LOOP, P, num_chunks=1)
    return require_valid(lower(Schedule("my own", placement, (B,), tuple(map(order, range(P))))))


def tell(schedule: Schedule) -> None:
    """Its timeline, where F, B and W take equal times, and how 1F1B compares."""
    duration = Costs.uniform(P, 1).duration
    mine = evaluate(schedule, duration)
    other = evaluate(generate(Order("1f1b"), P, 1, B), duration)
    print(draw_text(mine))
    print(f"makespan {mine.makespan:g}, bubble ratio {mine.bubble_ratio:.1%}")
    print(f"1F1B:    {other.makespan:g}, bubble ratio {other.bubble_ratio:.1%}")


def main() -> None:
    """Prove and draw it, then train three steps of it."""
    program = write()
    dist.init_process_group("gloo")  # nccl on GPUs
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(16, 16), nn.Tanh()) for _ in range(8)]
    pipe = zeropp.Pipeline(
        blocks, lambda out, target: (out - target).square().sum(), program, zeropp.make_mesh(P)
    )
    optimizer = torch.optim.SGD(pipe.parameters(), lr=1.0)
    batch = torch.randn(24, 16)
    losses = []
    for _ in range(3):
        losses.append(float(pipe.step((batch, batch)).loss))
        optimizer.step()
        optimizer.zero_grad()
    if dist.get_rank() == 0:
        tell(program.schedule)
        print("trained: loss", *(f"{loss:.4f}" for loss in losses))
    pipe.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

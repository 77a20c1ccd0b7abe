"""Dropout draws the same masks in every layout, schedule and unit, and when it is run again."""

import pytest
import torch
from torch import Tensor, nn

from support.exactness import Plain, gradient_errors, relative_error, whole
from support.features import H, Residual, even, loss_sum, stack
from support.ranks import run_ranks
from zeropp.build import pipeline
from zeropp.plan import Plan
from zeropp.runtime.mesh import data_rank

B = 8
ALONE = Plan(1, 1, B, unit_size=1)
LAYOUTS = (
    Plan(2, 2, B, unit_size=2),
    Plan(4, 1, B, unit_size=4),
    Plan(2, 2, B, "zb-v"),
    Plan(1, 2, B, unit_size=8, recompute="full"),
    Plan(2, 1, B, unit_size=4, recompute="selective"),
)


def noisy(logits: Tensor, targets: Tensor) -> Tensor:
    """A loss that draws random numbers of its own."""
    return loss_sum(logits + 0.1 * torch.randn_like(logits), targets)


def losses(plan: Plan, clips: bool) -> list[float]:
    """Of three steps on the same global batches."""
    torch.manual_seed(1)
    blocks = stack(lambda: Residual(dropout=0.1))
    torch.manual_seed(torch.distributed.get_rank())  # on which nothing depends
    pipe = pipeline(blocks, noisy, plan, seed=5)
    optimizer = torch.optim.SGD(pipe.parameters(), lr=0.1)
    count, found = plan.num_microbatches, []
    for step in range(3):
        batch = even(B, torch.Generator().manual_seed(step))
        start = data_rank(pipe.mesh) * count
        found.append(float(pipe.step(batch[start : start + count]).loss))
        if clips:
            pipe.clip_grad_norm_(0.5)
        optimizer.step()
        optimizer.zero_grad()
    pipe.close()
    return found


@pytest.mark.parametrize("plan", LAYOUTS, ids=lambda p: f"{p.order} P={p.pp_size} {p.recompute}")
def test_losses_are_those_of_one_rank(plan: Plan) -> None:
    for clips, tolerance in ((False, 0.0), (True, 1e-6)):
        (alone,) = run_ranks(1, losses, ALONE, clips)
        for found in run_ranks(plan.world_size, losses, plan, clips):
            assert found == pytest.approx(alone, rel=tolerance, abs=0)


def test_two_data_ranks_draw_what_one_does() -> None:
    (alone,) = run_ranks(1, losses, ALONE, False)
    plan = Plan(1, 2, B // 2, unit_size=2, dp_shard=2, max_resident=1)
    for found in run_ranks(2, losses, plan, False):
        assert found == pytest.approx(alone, rel=1e-6)


def masks() -> list[Tensor]:
    """The gradients of a table under dropout, for two seeds and two steps."""
    found = []
    for seed in (0, 1):
        torch.manual_seed(1)
        pipe = pipeline(stack(lambda: Residual(dropout=0.5)), loss_sum, Plan(1, 1, 1), seed=seed)
        state = torch.get_rng_state()
        for _ in range(2):
            pipe.step(even(1, torch.Generator().manual_seed(0)))
            found.append(next(pipe.parameters()).grad.clone())
            next(pipe.parameters()).grad = None
        assert torch.equal(state, torch.get_rng_state())
        pipe.close()
    return found


def test_seeds_and_steps_draw_others_and_the_users_generator_is_left_alone() -> None:
    (found,) = run_ranks(1, masks)
    for number, one in enumerate(found):
        assert not any(torch.equal(one, other) for other in found[:number])


class Projected(Residual):
    """With buffers that are drawn, and one whose elements share memory."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("angles", torch.rand(H))
        self.register_buffer("order", torch.randperm(H))
        self.register_buffer("ones", torch.ones(1).expand(H))
        if torch.get_default_device().type == "cpu":
            self.register_buffer("pairs", torch.eye(H).to_sparse_csr(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.sin(x * self.angles)[..., self.order] * self.ones


def from_other_seeds(plan: Plan, meta: bool) -> float:
    """The worst error of parameters and buffers where every data rank has drawn its own, against
    the first's, and of the gradients of a step.
    """
    torch.manual_seed(0)
    first, own = stack(Projected), torch.distributed.get_rank() % plan.dp_size
    torch.manual_seed(own)
    with torch.device("meta" if meta else "cpu"):
        blocks = stack(Projected)

    def drawn(index: int, block: nn.Module) -> None:
        torch.manual_seed(own)
        given = stack(Projected)[index].state_dict()
        block.load_state_dict(given)

    pipe = pipeline(blocks, loss_sum, plan, init=drawn if meta else None)
    plain, worst = Plain(first), 0.0
    wanted = dict(torch.nn.Sequential(*first).state_dict())
    for module in pipe.modules:
        tensors = (*module.named_parameters(), *module.named_buffers())
        for name, tensor in (pair for pair in tensors if pair[0] in wanted):
            worst = max(worst, relative_error(whole(tensor.detach()), wanted[name].float()))
    every = [even(B, torch.Generator().manual_seed(d)) for d in range(plan.dp_size)]
    plain.losses([pair for part in every for pair in part], {})[0].backward()
    pipe.step(every[data_rank(pipe.mesh)])
    worst = max(worst, *gradient_errors(plain, pipe).values())
    pipe.close()
    return worst


@pytest.mark.parametrize(
    ("plan", "meta"),
    [
        (Plan(1, 2, B, unit_size=2, dp_shard=2, dp_replicate=2), False),
        (Plan(2, 2, B, unit_size=2, dp_replicate=2), True),
        (Plan(1, 2, B, unit_size=2, dp_shard=2), True),
    ],
    ids=("both", "replicas", "shards"),
)
def test_data_ranks_start_with_what_the_first_has(plan: Plan, meta: bool) -> None:
    assert max(run_ranks(plan.world_size, from_other_seeds, plan, meta)) < 1e-5

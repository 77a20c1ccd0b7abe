"""What a micro-batch holds: until B, between B and W, and after W."""

from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy

from support.exactness import whole
from support.ranks import run_ranks
from zeropp.build import pipeline
from zeropp.ir.model import GPTConfig
from zeropp.ir.program import Recompute
from zeropp.measure.memory import Alive
from zeropp.models import gpt_blocks, init_block
from zeropp.plan import Plan
from zeropp.runtime.grid import make_mesh
from zeropp.runtime.lane import ThreadLane
from zeropp.runtime.mesh import SHARD
from zeropp.runtime.shard import place_parameters
from zeropp.runtime.stage import Stage, StageModule

CONFIG = GPTConfig(vocab_size=64, seq_len=64, layers=3, hidden=64, heads=4)
SAMPLES = 2


def stage_of(recompute: str) -> Stage:
    blocks = gpt_blocks(CONFIG)
    for index, block in enumerate(blocks):
        init_block(block, CONFIG, index, seed=0)
    module = StageModule(dict(enumerate(blocks[1:-1])))
    policy = MixedPrecisionPolicy()
    placed = place_parameters({0: module}, None, policy, ThreadLane())
    return Stage(module, placed[0], policy, Recompute(recompute))


def held(recompute: str) -> tuple[int, int, int]:
    """Bytes alive after F, after B and after W."""
    stage, seed = stage_of(recompute), torch.tensor(1.0)
    shape = (SAMPLES, CONFIG.seq_len, CONFIG.hidden)
    x, grad = torch.randn(shape).requires_grad_(), torch.randn(shape)

    def run() -> tuple[int, int, int]:
        with Alive() as alive:
            stage.forward(0, (x,), {}, seed)
            forward = alive.bytes()
            stage.backward(0, (grad,), fused=False)
            between = alive.bytes()
            stage.weight(0)
            return forward, between, alive.bytes()

    run()  # the buffers of gradients exist from here on
    return run()


def needed_by_weights() -> int:
    """Input and output gradient of every linear layer of the stage, each tensor once."""
    h, tokens = CONFIG.hidden, SAMPLES * CONFIG.seq_len
    attention = h + 3 * h + h + h  # qkv: x and gy; out: x and gy
    feed_forward = h + 4 * h + 4 * h + h
    return 4 * tokens * CONFIG.layers * (attention + feed_forward)


@pytest.mark.parametrize("recompute", list(Recompute))
def test_between_B_and_W_only_what_W_needs_is_held(recompute: str) -> None:
    forward, between, after = held(recompute)
    assert between <= needed_by_weights()
    assert after < between / 100
    assert forward > between or recompute != Recompute.NONE


def test_checkpointing_holds_less_until_B() -> None:
    plain, selective, full = (held(how)[0] for how in ("none", "selective", "full"))
    assert full < selective < plain
    block_inputs = 4 * SAMPLES * CONFIG.seq_len * CONFIG.hidden * (CONFIG.layers - 1)
    assert full <= block_inputs * 1.6  # and the stage's output, random state


def slow_reduction() -> str:
    """The second rank joins the first REDUCE only once the first rank is past it."""
    plan = Plan(1, 2, 2, unit_size=1, dp_shard=2, max_resident=1)
    mesh = make_mesh(plan.pp_size, plan.dp_replicate, plan.dp_shard)
    lane = ThreadLane()
    module = StageModule({0: nn.Linear(4, 4)})
    policy = MixedPrecisionPolicy()
    parameters = place_parameters({0: module}, mesh[SHARD], policy, lane)[0]
    parameters.unshard()
    parameters.wait()
    for parameter in parameters.trained():
        parameters.gradients.add(parameter, torch.ones(parameter.shape))
    store = dist.distributed_c10d._get_default_store()
    if dist.get_rank() == 1:
        store.wait(["past"])
    parameters.reduce()
    store.set("past", "yes")
    parameters.reshard()
    parameters.finish()
    lane.close()
    (gradient, *_) = (p.grad for p in module.parameters())
    return str(whole(gradient).unique().tolist())


def test_compute_goes_on_while_gradients_are_reduced() -> None:
    assert run_ranks(2, slow_reduction, timeout=60) == ["[2.0]", "[2.0]"]


def sent_and_kept() -> int:
    """The most messages that rank 0 keeps in a step of many micro-batches."""
    pipe = pipeline([nn.Linear(4, 4), nn.Linear(4, 4)], _loss, Plan(2, 1, 32, "gpipe"))
    links = pipe._machine.messages._links.values()
    most = 0

    def count(*_: object) -> None:
        nonlocal most
        most = max(most, *(len(link._sending) for link in links))

    x = torch.ones(32, 4)
    with patch.object(pipe._machine.watchdog, "begin", count):
        pipe.step((x, x))
    pipe.close()
    return most


def _loss(y: Tensor, t: Tensor) -> Tensor:
    return (y - t).pow(2).sum()


def test_sent_messages_do_not_pile_up() -> None:
    assert max(run_ranks(2, sent_and_kept, timeout=60)) == 2

"""What cannot be right is one line on every rank, at once, and nothing is left of it."""

import gc
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.utils.checkpoint import checkpoint

from support.exactness import Plain, gradient_errors
from support.features import VOCAB, H, Penalised, Residual, even, loss_sum, stack
from support.ranks import run_ranks
from zeropp import Adapter, AuxiliaryLoss, hf
from zeropp import checkpoint as checkpoints
from zeropp.build import pipeline, program_of
from zeropp.plan import Plan
from zeropp.runtime import Pipeline, make_mesh

B = 4
PLANS = (
    Plan(2, 2, B, unit_size=2),
    Plan(2, 2, B, "zb-v"),
    Plan(1, 2, B, unit_size=2, dp_shard=2, max_resident=1),
)
every_plan = pytest.mark.parametrize("plan", PLANS, ids=["loop", "vee", "sharded"])


def rank() -> int:
    return torch.distributed.get_rank()


def batch(seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    return even(B, torch.Generator().manual_seed(seed))


def made(plan: Plan, blocks: list[nn.Module], **options: Any) -> Pipeline:
    return pipeline(blocks, options.pop("loss_fn", loss_sum), plan, **options)


def said(call: Callable[[], object]) -> tuple[str, str, float]:
    """What is raised, in words, and after how many seconds."""
    start = time.monotonic()
    with pytest.raises((ValueError, RuntimeError)) as raised:
        call()
    return type(raised.value).__name__, str(raised.value), time.monotonic() - start


def require_begins(lines: Sequence[str], wanted: Sequence[str]) -> None:
    """Each line begins as wanted."""
    for line, start in zip(lines, wanted, strict=True):
        assert line.startswith(start)


class Broken(nn.Module):
    """Fails in its third forward, or in the backward of it."""

    def __init__(self, backward: bool) -> None:
        super().__init__()
        self.layer, self.backward, self.runs = nn.Linear(H, H), backward, 0
        self.fails = True

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        y = self.layer(x)
        if self.fails and self.runs == 3 and not x.is_meta:
            if not self.backward:
                raise ValueError("the third is too much")
            y.register_hook(_fail)
        return y


def _fail(_: Tensor) -> None:
    raise ValueError("the third is too much")


def failing_steps(plan: Plan) -> list[tuple[str, str, float]]:
    """A step that fails on one rank, one that is refused, and errors of one after `recover`."""
    found = []
    for backward in (False, True):
        torch.manual_seed(1)
        blocks = stack(Residual)
        blocks[4] = Broken(backward)
        if plan.dp_shard == 2 and rank() == 1:
            blocks[4].fails = False  # one data rank alone
        pipe = made(plan, blocks)
        found.append(said(lambda: pipe.step(batch())))  # noqa: B023
        found.append(said(lambda: pipe.step(batch())))  # noqa: B023
        pipe.recover()
        torch.manual_seed(1)
        plain = stack(Residual)
        plain[4] = Broken(backward)
        reference = Plain(plain)
        plain[4].fails = False
        reference.losses(batch(5), {})[0].backward()
        pipe.step(batch(5))
        assert max(gradient_errors(reference, pipe).values()) < 1e-5
        pipe.close()
    return found


@every_plan
def test_a_failure_inside_a_step_is_raised_by_every_rank_and_leaves_nothing(plan: Plan) -> None:
    ranks = run_ranks(plan.world_size, failing_steps, plan)
    for everywhere in zip(*ranks, strict=True):
        kinds, lines, seconds = zip(*everywhere, strict=True)
        assert len(set(lines)) == 1
        assert max(seconds) < 2
        if kinds[0] == "StepFailedError":
            assert "ValueError: the third is too much" in lines[0]
            assert lines[0].startswith("rank ")
        else:
            assert "call recover(), which drops all gradients" in lines[0]


def one_rank_alone(plan: Plan) -> list[tuple[str, str, float]]:
    """Mistakes of the last rank, each followed by a step that goes well."""
    pipe = made(plan, stack(Residual))
    last = rank() == plan.world_size - 1

    def loader() -> list[tuple[Tensor, Tensor]]:
        if last:
            raise OSError("the disk is gone")
        return batch()

    def within(context: AbstractContextManager[object]) -> object:
        with context:
            return pipe.step(batch())

    other: Any = {"mask": torch.ones(1)} if rank() == 0 else None
    longer = program_of(replace(plan, num_microbatches=B + 1))
    another = {"unit_size": 1} if plan.unit_size else {"schedule": "v-half"}
    swapped = program_of(replace(plan, **another))
    optimizer, folder = torch.optim.SGD(pipe.parameters()), Path("never")
    saver, own = checkpoints.Saver(folder, pipe, optimizer), Path("elsewhere") if last else folder
    mistakes: list[Callable[[], object]] = [
        lambda: pipe.step(loader),
        lambda: pipe.eval(loader),
        lambda: pipe.step((1, 2) if last else batch()),  # type: ignore[arg-type]
        lambda: pipe.step((torch.ones(2, 5), torch.ones(2)) if last else batch()),
        lambda: pipe.step(batch(), constants=other),
        lambda: pipe.step(batch(), divisor=5 if last else 7),
        lambda: pipe.eval((torch.zeros(()), torch.zeros(2)) if last else batch()),
        lambda: pipe.step([] if last else batch()),
        lambda: pipe.eval(batch()) if last else pipe.step(batch()),
        lambda: within(torch.autocast("cpu", torch.bfloat16, enabled=last)),
        lambda: within(torch.set_grad_enabled(not last)),
        lambda: within(torch.inference_mode(last)),
        lambda: pipe.eval(batch(), metrics={"hits": loss_sum} if last else None),
        lambda: pipe.predict(batch(1)[0][0]) if last else pipe.eval(batch()),
        lambda: pipe.clip_grad_norm_(1.0) if last else pipe.step(batch()),
        lambda: pipe.clip_grad_norm_(2.0 if last else 1.0),
        lambda: pipe.clip_grad_norm_(1.0, error_if_nonfinite=last),
        lambda: pipe.clip_grad_norm_(-1.0 if last else 1.0),
        lambda: pipe.clip_grad_norm_(float("nan")),
        lambda: pipe.follow(pipe.program) if last else pipe.step(batch()),
        lambda: pipe.follow(longer if last else pipe.program),
        lambda: pipe.follow(swapped if last else pipe.program),
        lambda: pipe.follow(plan if last else pipe.program),
        lambda: pipe.step(batch()) if last else checkpoints.save(folder, pipe, optimizer, 1),
        lambda: checkpoints.save(folder, pipe, optimizer, 1 + last),
        lambda: checkpoints.save(own, pipe, optimizer, 1),
        lambda: pipe.step(batch()) if last else checkpoints.load(folder, pipe, optimizer),
        lambda: checkpoints.load(own, pipe, optimizer),
        lambda: pipe.step(batch()) if last else saver.begin(1),
        lambda: saver.begin(1 + last),
        lambda: pipe.step(batch()) if last else hf.save(pipe, nn.Linear(1, 1), folder),
        lambda: hf.save(pipe, nn.Linear(1, 1), own),
        lambda: pipe.step(batch()) if last else Adapter(pipe, plan, every=1).after_step(),
    ]
    found = []
    for mistake in mistakes:
        found.append(said(mistake))
        assert pipe.step(batch()).loss > 0
    saver.close()
    pipe.close()
    return found


@every_plan
def test_a_mistake_of_one_rank_is_raised_by_every_rank(plan: Plan) -> None:
    ranks = run_ranks(plan.world_size, one_rank_alone, plan)
    words = (
        "rank 1: the disk is gone",
        "rank 1: the disk is gone",
        "rank 1: batch: wanted (inputs, targets), each a tensor or a tuple of tensors",
        "rank 1: batch: 2 samples cannot fill num_microbatches=4",
        "rank 0: constants: the blocks ask for none",
        "rank 1 calls step, divisor 5, rank 0 step, divisor 7; call the same",
        "rank 1: batch: tensors need a dimension of samples",
        "rank 1: batch: wanted (inputs, targets), each a tensor or a tuple of tensors",
        "rank 1 calls eval, rank 0 step; call the same",
        "autocast: rank 1 runs under another than rank 0",
        "rank 1: step: gradients are off (no_grad, inference_mode)",
        "rank 1: step: gradients are off (no_grad, inference_mode)",
        "rank 1 calls eval, hits, rank 0 eval; call the same",
        "rank 1 calls predict, rank 0 eval; call the same",
        "rank 1 calls clip_grad_norm_(1.0, error_if_nonfinite=False), rank 0 step; call the same",
        "rank 1 calls clip_grad_norm_(2.0, error_if_nonfinite=False), rank 0 clip_grad_norm_(1.0",
        "rank 1 calls clip_grad_norm_(1.0, error_if_nonfinite=True), rank 0 clip_grad_norm_(1.0",
        "rank 1 calls clip_grad_norm_(-1.0, error_if_nonfinite=False), rank 0 clip_grad_norm_(1.0",
        "clip_grad_norm_: max_norm must be above 0, got nan",
        "rank 1 calls follow, rank 0 step; call the same",
        "rank 1: num_microbatches cannot change while training",
        "program: ranks [1] were given another than rank 0",
        "rank 1: program: a Program is wanted, got Plan; of a plan, zeropp.program_of makes one",
        "rank 1 calls step, rank 0 checkpoint.save(never, step 1); call the same",
        "rank 1 calls checkpoint.save(never, step 2), rank 0 checkpoint.save(never, step 1); call",
        "rank 1 calls checkpoint.save(elsewhere, step 1), rank 0 checkpoint.save(never, step 1",
        "rank 1 calls step, rank 0 checkpoint.load(never); call the same",
        "rank 1 calls checkpoint.load(elsewhere), rank 0 checkpoint.load(never); call the same",
        "rank 1 calls step, rank 0 Saver(never).begin(1); call the same",
        "rank 1 calls Saver(never).begin(2), rank 0 Saver(never).begin(1); call the same",
        "rank 1 calls step, rank 0 hf.save(never); call the same",
        "rank 1 calls hf.save(elsewhere), rank 0 hf.save(never); call the same",
        "rank 1 calls step, rank 0 Adapter.after_step; call the same",
    )
    for wanted, everywhere in zip(words, zip(*ranks, strict=True), strict=True):
        for _, line, seconds in everywhere:
            assert line.startswith(wanted)
            assert seconds < 1


def other_batches() -> list[tuple[str, str, float]]:
    """Ranks of one pipeline that are given other targets, other lengths, or one more."""
    found = []
    for plan in PLANS[:2]:
        pipe = made(plan, stack(Residual))
        longer = even(B, torch.Generator().manual_seed(0))
        longer[0] = tuple(torch.cat((t, t)) for t in longer[0])  # type: ignore[assignment]
        for wrong in (batch(1), longer, [*batch(), *batch()]):
            found.append(said(lambda: pipe.step(wrong if rank() else batch())))  # noqa: B023
        pipe.close()
    return found


def test_ranks_of_a_pipeline_must_be_given_the_same() -> None:
    for everywhere in zip(*run_ranks(2, other_batches), strict=True):
        for _, line, seconds in everywhere:
            assert line.startswith("batch: rank 1 was given another batch than rank 0")
            assert seconds < 1


def numbers_differ() -> dict[str, float]:
    """Errors where one data rank brings 2 micro-batches and the other 5, by a plan of 4."""
    torch.manual_seed(1)
    blocks = stack(Residual)
    torch.manual_seed(1)
    plain = Plain(stack(Residual))
    every = [even(count, torch.Generator().manual_seed(count)) for count in (2, 5)]
    plain.losses([pair for part in every for pair in part], {})[0].backward()
    pipe = made(PLANS[2], blocks)
    pipe.step(every[rank()])
    errors = gradient_errors(plain, pipe)
    pipe.close()
    return errors


def test_data_ranks_may_bring_other_numbers_of_microbatches() -> None:
    for errors in run_ranks(2, numbers_differ):
        assert max(errors.values()) < 1e-5


def summed_over_two_steps() -> float:
    """Error of gradients of two steps of other sizes before one of the optimizer."""
    torch.manual_seed(1)
    blocks = stack(Residual)
    torch.manual_seed(1)
    plain = Plain(stack(Residual))
    parts = [even(count, torch.Generator().manual_seed(count)) for count in (1, 6)]
    plain.losses([pair for part in parts for pair in part], {})[0].backward()
    tokens = sum(targets.numel() for part in parts for _, targets in part)
    pipe = made(PLANS[0], blocks)
    for part in parts:
        pipe.step(part, divisor=tokens)
    error = max(gradient_errors(plain, pipe).values())
    pipe.close()
    return error


def test_steps_add_up_weighted_by_their_tokens() -> None:
    assert max(run_ranks(2, summed_over_two_steps)) < 1e-5


class Dict(nn.Module):
    """Gives what no other rank can be sent."""

    def __init__(self, gives: Any) -> None:
        super().__init__()
        self.layer, self.gives = nn.Linear(H, H), gives

    def forward(self, x: Any, *_: Any) -> Any:
        if isinstance(x, dict | list):
            x = x["x"] if isinstance(x, dict) else x[0]
        return self.gives(self.layer(x))


class Liar(nn.Module):
    """Gives other things on the meta device."""

    def __init__(self, gives: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.gives = nn.Linear(H, H), gives

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return y if x.is_meta else self.gives(y)


class Reentrant(Residual):
    """Checkpoints itself in the way that gives no gradients here."""

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(super().forward, x, use_reentrant=True)


class Transformed(nn.Module):
    """Uses a transform of torch.func."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(H, H)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.func.grad(lambda z: torch.tanh(self.layer(z)).sum())(x)


def odd_boundaries() -> list[tuple[str, str, float]]:
    gives: tuple[Any, ...] = (lambda y: {"x": y}, lambda y: (y, None), lambda y: [y])
    lies: tuple[Any, ...] = (
        lambda y: y.double(),
        lambda y: y.transpose(0, 1),
        lambda y: y.detach(),
    )
    models = [stack(lambda give=give: Dict(give)) for give in gives]  # type: ignore[misc]
    for lie in lies:
        models.append(stack(Residual))
        models[-1][3] = Liar(lie)
    found = []
    for model in models:
        pipe = made(Plan(2, 1, B), model)
        found.append(said(lambda: pipe.step(batch())))  # noqa: B023
        pipe.close()
    return found


def test_what_travels_is_what_was_expected() -> None:
    kinds = ("dict", "Tensor, NoneType", "list")
    ends = [f"block 3 ends a stage and gives {kind};" for kind in kinds]
    given = ("float64 [2, 5, 16]", "float32 [5, 2, 16]", "float32 [2, 5, 16] without gradient")
    ends += [f"block 3 gives {text}, but float32 [2, 5, 16] when it was run" for text in given]
    for wanted, everywhere in zip(
        ends, zip(*run_ranks(2, odd_boundaries), strict=True), strict=True
    ):
        for _, line, seconds in everywhere:
            assert wanted in line
            assert seconds < 2


def at_construction_or_first() -> list[str]:
    """What is said to models and losses that would be trained wrongly; on one rank."""
    scale = nn.Parameter(torch.ones(()))

    def hooked() -> list[nn.Module]:
        blocks = stack(Residual)
        blocks[0].weight.register_hook(lambda g: g)
        return blocks

    def half() -> list[nn.Module]:
        return [block.half() for block in stack(Residual)]

    def closure(y: Tensor, t: Tensor) -> Tensor:
        return loss_sum(y * scale, t)

    class Learned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.temperature = nn.Parameter(torch.ones(()))

        def forward(self, y: Tensor, t: Tensor) -> Tensor:
            return loss_sum(y * self.temperature, t)

    def mean(y: Tensor, t: Tensor) -> Tensor:
        return F.cross_entropy(y.flatten(0, 1), t.flatten())

    def stepped(blocks: list[nn.Module], **options: Any) -> Callable[[], object]:
        return lambda: made(Plan(1, 2, B), blocks, **options).step(batch())

    wants_gradient = [(torch.ones(2, 5, H, requires_grad=True), t) for _, t in batch()]
    numbers = stack(Residual, tokens=False)

    def total(y: Tensor, t: Tensor, reduction: str = "sum") -> Any:
        return F.cross_entropy(y.flatten(0, 1), t.flatten(), reduction=reduction)

    def metric() -> object:
        pipe = made(Plan(1, 2, B), stack(Residual))
        return pipe.eval(batch(), metrics={"each": lambda y, t: total(y, t, "none")})

    calls = [
        stepped(stack(Residual), loss_fn=lambda y, t: total(y, t, "none")),
        stepped(stack(Residual), loss_fn=lambda y, t: (total(y, t), 1)),
        stepped(stack(Residual), loss_fn=lambda y, t: float(total(y, t))),
        stepped(stack(Residual), loss_fn=lambda y, t: total(y, t).long()),
        stepped(stack(Residual), loss_fn=lambda y, t: total(y, t).detach()),
        metric,
        stepped(hooked()),
        stepped(half()),
        stepped(stack(Residual), loss_fn=closure),
        stepped(stack(Residual), loss_fn=Learned()),
        stepped(stack(Residual), loss_fn=mean),
        stepped(stack(Reentrant)),
        lambda: made(Plan(1, 2, B, recompute="full"), stack(Transformed)).step(batch()),
        lambda: made(Plan(1, 2, B), numbers).step(wants_gradient),
        stepped(numbers, precision=MixedPrecisionPolicy(output_dtype=torch.float32)),
        stepped(numbers, precision=MixedPrecisionPolicy(param_dtype=torch.float16)),
    ]
    return [said(call)[1] for call in calls]


def test_what_would_not_be_trained_is_refused() -> None:
    number = "wanted a sum, one number as a float tensor; got"
    wanted = (
        f"loss_fn: {number} a tensor torch.float32 [10]",
        f"loss_fn: {number} (Tensor, int)",
        f"loss_fn: {number} a float",
        f"loss_fn: {number} a tensor torch.int64 []",
        "loss_fn gives a number without a gradient",
        f"each: {number} a tensor torch.float32 [",
        "parameter 0.weight has a hook",
        "parameter 0.weight is of float16",
        "a parameter of shape [] that is in none of this stage's blocks",
        "loss_fn: its parameter temperature would not be trained",
        "loss_fn gives a mean: of a sample that is repeated it is the same, where a sum doubles; "
        'use reduction="sum"',
        "a block calls torch.utils.checkpoint with use_reentrant=True",
        "block 1: torch.func needs recompute none",
        "batch: a tensor requires a gradient",
        "precision: output_dtype and cast_forward_inputs=False are not followed",
        "precision: the gradients of a mean over many tokens underflow in float16",
    )
    (lines,) = run_ranks(1, at_construction_or_first)
    require_begins(lines, wanted)


def changed_parameters(plan: Plan) -> list[tuple[str, str, float]]:
    found = []

    def freeze(block: nn.Module) -> None:
        block.requires_grad_(False)

    def replace(block: Any) -> None:
        block.norm = nn.LayerNorm(H)

    def hook(block: Any) -> None:
        next(block.parameters()).register_post_accumulate_grad_hook(lambda p: None)

    def thaw(block: Any) -> None:
        block.requires_grad_(True)

    def retype(block: Any) -> None:
        block.double()

    for change in (freeze, replace, hook, thaw, retype):
        blocks = stack(Residual)
        blocks[3].requires_grad_(change is not thaw)
        pipe = made(plan, blocks)
        pipe.step(batch())
        for module in pipe.modules:
            for _, block in module.numbered:
                if block is blocks[3]:
                    change(block)
        found.append(said(lambda: pipe.step(batch())))  # noqa: B023
        pipe.close()
    return found


@every_plan
def test_parameters_that_change_are_named_by_every_rank(plan: Plan) -> None:
    words = ("was frozen since", "was replaced since", "has a hook", "is no longer frozen since")
    words += ("got another dtype or shape since",)
    ranks = run_ranks(plan.world_size, changed_parameters, plan)
    for wanted, everywhere in zip(words, zip(*ranks, strict=True), strict=True):
        for _, line, seconds in everywhere:
            assert "parameter 3." in line
            assert wanted in line
            assert seconds < 1


def not_shardable() -> list[str]:
    class Scalar(Residual):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(()))

    class Double(Residual):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Linear(H, H).double()

    class Turned(Residual):
        def __init__(self) -> None:
            super().__init__()
            self.turned = nn.Parameter(torch.ones(H, 2).t())

    class Empty(Residual):
        def __init__(self) -> None:
            super().__init__()
            self.empty = nn.Parameter(torch.ones(0))

    class Frozen(Residual):
        def __init__(self) -> None:
            super().__init__()
            self.frozen = nn.Parameter(torch.ones(H, 2).t(), requires_grad=False)

    kinds = (Scalar, Double, Turned, Empty, Frozen)
    return [said(lambda: made(PLANS[2], stack(kind)))[1] for kind in kinds]  # noqa: B023


def test_what_cannot_be_sharded_is_named() -> None:
    for scalar, double, turned, empty, frozen in run_ranks(2, not_shardable):
        assert scalar.startswith(
            "parameter 1.gain of shape [] is a scalar, empty or not contiguous"
        )
        assert double.startswith("parameter 1.other.weight is of torch.float64, 0.weight of")
        assert turned.startswith(
            "parameter 1.turned of shape [2, 16] is a scalar, empty or not contiguous"
        )
        assert empty.startswith(
            "parameter 1.empty of shape [0] is a scalar, empty or not contiguous"
        )
        assert frozen.startswith(
            "parameter 1.frozen of shape [2, 16] is a scalar, empty or not contiguous"
        )


def unfilled() -> list[str]:
    """What `init` leaves empty, and what was real before it stays."""

    class Rotary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(H, H)
            self.register_buffer("table", torch.arange(H).float(), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) + self.table

    def fill(_: int, block: nn.Module) -> None:
        for parameter in block.parameters():
            parameter.data.normal_()

    with torch.device("meta"):
        blocks = stack(Rotary)
    lines = [said(lambda: made(Plan(1, 1, B), blocks, init=fill))[1]]
    with torch.device("meta"):
        blocks = stack(Rotary)
    for block in blocks[1:-1]:
        block.table = torch.arange(H).float()
    pipe = made(Plan(1, 1, B), blocks, init=fill)
    assert torch.equal(pipe.modules[0].get_submodule("1").table, torch.arange(H).float())
    pipe.close()
    return lines


def test_what_init_leaves_empty_is_named() -> None:
    assert run_ranks(1, unfilled) == [
        ["1.table, which was on the meta device, has not been filled"]
    ]


def _gone(index: int, block: nn.Module) -> None:
    if index > 4:
        raise OSError("the disk is gone")
    for parameter in block.parameters():
        nn.init.zeros_(parameter)


def refused_by_the_last_rank() -> list[tuple[str, str, float]]:
    """What the last rank alone finds while a pipeline is made; then one that is made."""
    found = []
    with torch.device("meta"):
        empty = stack(Residual)
    found.append(said(lambda: made(Plan(2, 1, B), empty, init=_gone)))
    half = stack(Residual)
    half[6].half()
    found.append(said(lambda: made(Plan(2, 1, B), half)))
    hooked = stack(Residual)
    next(hooked[6].parameters()).register_hook(lambda gradient: gradient)
    found.append(said(lambda: made(Plan(2, 1, B), hooked)))
    found.append(said(lambda: made(Plan(2, 1, B), stack(Residual), seed=rank())))
    sizes, wider = Plan(1 + rank(), 1, B, dp_shard=2 - rank()), Plan(2, 1 + rank(), B, "1f1b")
    larger = Plan(2 * (1 + rank()), 1, B)
    for other in (sizes, larger, wider):
        found.append(said(lambda: made(other, stack(Residual))))  # noqa: B023
    frozen, odd = stack(Residual), stack(Residual)
    frozen[4].requires_grad_(not rank())
    odd[4] = nn.Linear(H, H) if rank() else nn.Linear(H, H, bias=False)
    for blocks in (frozen, odd, stack(Residual)[rank() :]):
        found.append(said(lambda: made(Plan(1, 2, B, dp_shard=2), blocks)))  # noqa: B023
    trained: Any = nn.Linear(1, 1) if rank() else loss_sum
    found.append(said(lambda: made(Plan(2, 1, B), stack(Residual), loss_fn=trained)))
    found.append(said(lambda: made(Plan(2, 1, B), stack(Residual), timeout=1.0 - rank())))
    pipe = made(Plan(2, 1, B), stack(Residual))
    assert pipe.step(batch()).loss > 0
    pipe.close()
    return found


def test_what_one_rank_finds_while_a_pipeline_is_made_is_raised_by_every_rank() -> None:
    words = (
        "rank 1: the disk is gone",
        "rank 1: parameter 6.norm.weight is of float16",
        "rank 1: parameter 6.norm.weight has a hook",
        "seed: ranks [1] were given another than rank 0",
        "pp_size: ranks [1] were given another than rank 0",
        "rank 1: pp_size x dp_replicate x dp_shard = 4 x 1 x 1 = 4 ranks, but 2 are running",
        "rank 1: num_chunks must be 1 for 1f1b, got 2",
        *["blocks: ranks [1] were given another than rank 0"] * 3,
        "rank 1: loss_fn: its parameter weight would not be trained",
        "rank 1: timeout must be above 0 seconds, got 0.0",
    )
    ranks = run_ranks(2, refused_by_the_last_rank)
    for wanted, everywhere in zip(words, zip(*ranks, strict=True), strict=True):
        for _, line, seconds in everywhere:
            assert line.startswith(wanted)
            assert seconds < 2


def nothing_kept() -> list[str]:
    """Which of a step's objects outlive it, with the collector off."""
    pipe = made(Plan(1, 2, B), stack(Residual))
    gc.disable()

    def trained() -> Iterator[tuple[str, Any]]:
        own = batch()
        yield from (("inputs", own[0][0]), ("targets", own[0][1]))
        pipe.step(own)

    kept = [(name, weakref.ref(one)) for name, one in trained()]
    outputs = pipe.predict(torch.zeros(2, 5, dtype=torch.int64))
    assert outputs is not None
    kept.append(("logits", weakref.ref(outputs[0][0])))
    del outputs
    gc.enable()
    pipe.close()
    return [name for name, one in kept if one() is not None]


def test_a_steps_objects_do_not_wait_for_the_collector() -> None:
    assert run_ranks(1, nothing_kept) == [[]]


class Noisy(nn.Module):
    """Statistics and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer, self.drop = nn.BatchNorm1d(H), nn.Linear(H, H), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(self.layer(self.norm(x.flatten(0, -2)).view_as(x)))


def evaluated() -> tuple[float, float, bool]:
    """A loss of evaluation, plain PyTorch's, and whether modes and buffers are as before."""
    torch.manual_seed(1)
    blocks = stack(Noisy)
    blocks[2].eval()
    torch.manual_seed(1)
    plain = nn.Sequential(*stack(Noisy)).eval()
    pipe = made(Plan(1, 2, B), blocks)
    inputs, targets = torch.arange(20).view(4, 5) % VOCAB, torch.ones(4, 5, dtype=torch.int64)
    before = [b.clone() for m in pipe.modules for b in m.buffers()]
    modes = [m.training for module in pipe.modules for m in module.modules()]
    loss = pipe.eval((inputs, targets), 2).loss
    wanted = loss_sum(plain(inputs), targets) / targets.numel()
    after = [b for m in pipe.modules for b in m.buffers()]
    same = all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    same = same and modes == [m.training for module in pipe.modules for m in module.modules()]
    pipe.close()
    return float(loss), float(wanted), same


def test_evaluation_is_in_evaluation_mode() -> None:
    ((loss, wanted, same),) = run_ranks(1, evaluated)
    assert loss == pytest.approx(wanted, rel=1e-5)
    assert same


def not_finite() -> list[Any]:
    pipe = made(Plan(2, 1, B), stack(Residual))
    pipe.step(batch())
    for _, parameter in pipe.named_parameters():
        if pipe.rank == 1:
            parameter.grad.fill_(float("nan"))
    before = [p.grad.clone() for p in pipe.parameters()]
    found: list[Any] = [said(lambda: pipe.clip_grad_norm_(1.0, error_if_nonfinite=True))[1]]
    after = [p.grad for p in pipe.parameters()]
    pairs = zip(before, after, strict=True)
    found.append(all(torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in pairs))
    pipe.close()
    frozen = stack(Residual)
    for block in frozen[:4]:
        block.requires_grad_(False)
    pipe = made(Plan(2, 1, B), frozen)
    pipe.step(batch())
    found.append(float(pipe.clip_grad_norm_(1.0)) > 0)
    pipe.close()
    return found


def test_the_norm_says_what_is_not_finite_and_needs_nothing_trainable() -> None:
    for line, same, frozen in run_ranks(2, not_finite):
        assert line.startswith("clip_grad_norm_: the norm of the gradients is nan")
        assert same
        assert frozen


class Moved(nn.Module):
    """Projects a memory, and moves it in place in the next forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(H, H)
        self.register_buffer("memory", torch.ones(H))

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(self.memory)
        return x + torch.tanh(y) + self.layer(x)


class Sometimes(nn.Module):
    """Changes its input in every second forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.runs = nn.Linear(H, H), 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        if self.runs % 2 == 0:
            x.mul_(2)
        return self.layer(x)


class Balanced(nn.Module):
    """Hands over an auxiliary loss that is none."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.balance = nn.Linear(H, H), AuxiliaryLoss()

    def forward(self, x: Tensor) -> Tensor:
        return self.balance(self.layer(x), x.sum(0))


def odd_models() -> list[str]:
    moved = stack(Moved)
    pipe = made(Plan(1, 1, B, "zb-h1"), moved)
    stage = pipe.stages[0]
    (logits,) = stage.forward(0, (batch()[0][0],), {}, torch.ones(()))
    stage.backward(0, (torch.ones_like(logits),), fused=False)
    moved[2].memory.mul_(0.5)
    lines = [said(lambda: stage.weight(0))[1]]
    pipe.close()
    again = Plan(1, 1, B, "gpipe", recompute="full")
    lines.append(said(lambda: made(again, stack(Sometimes)).step(batch()))[1])
    lines.append(said(lambda: made(Plan(1, 1, B), stack(Balanced)).step(batch()))[1])
    longer = (torch.zeros(4, 5, dtype=torch.int64), torch.zeros(3, 5, dtype=torch.int64))
    lines.append(said(lambda: made(Plan(1, 1, B), stack(Residual)).step(longer))[1])
    with torch.device("meta"):
        empty = stack(Residual)
    lines.append(said(lambda: made(Plan(1, 1, B), empty))[1])
    penalised = stack(Penalised)
    penalised[3] = penalised[2]
    lines.append(said(lambda: made(Plan(1, 2, B), penalised).step(batch()))[1])
    statistics = stack(Residual)
    statistics[2] = statistics[5] = Noisy()
    lines.append(said(lambda: made(Plan(1, 2, B), statistics).step(batch()))[1])
    mesh = init_device_mesh("cpu", (1, 1, 1), mesh_dim_names=("a", "b", "c"))
    lines.append(said(lambda: made(Plan(1, 1, B), stack(Residual), mesh=mesh))[1])
    return lines


def test_odd_models_and_meshes_are_told() -> None:
    wanted = (
        "2.layer: its input was changed in place before its weight gradient was made (W)",
        "block 1 changes its input in some forwards only",
        "an auxiliary loss must be a scalar, got shape [5, 16]",
        "batch: its tensors differ in their first dimension: {3, 4}",
        "block 0 is on the meta device; pass init or load to fill it",
        "block 2 takes gradients in its forward, and shares a parameter with another block",
        "buffer 2.norm.running_mean was changed by a forward, and its module is used by",
        "mesh: wanted pp, dp_replicate, dp_shard of all 1 ranks, got ('a', 'b', 'c') of 1; make it",
    )
    (lines,) = run_ranks(1, odd_models)
    require_begins(lines, wanted)


class Picky(nn.Module):
    """Runs on meta for some shapes only."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(H, H)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 5:
            x.sum().item()
        return self.layer(x)


def later_shapes() -> list[tuple[str, str, float]]:
    """A shape that does not run on meta after one that does; ranks with other programs."""
    pipe = made(PLANS[0], stack(Picky))
    pipe.step(batch())
    longer = [(torch.cat((x, x), 1), torch.cat((y, y), 1)) for x, y in batch()]
    found = [said(lambda: pipe.step(longer))]
    pipe.close()
    other = PLANS[0] if rank() else replace(PLANS[0], unit_size=4)
    found.append(said(lambda: made(other, stack(Residual))))
    sound = program_of(PLANS[0])
    short = replace(sound, actions=(sound.actions[0], sound.actions[1][:-1]))
    plan: Any = PLANS[0]
    unsound, none, mesh = short if rank() else sound, plan if rank() else sound, make_mesh(2)
    for program in (unsound, none, plan):
        found.append(said(lambda: Pipeline(stack(Residual), loss_sum, program, mesh)))  # noqa: B023
    half = DeviceMesh("cpu", [[[rank()]]], mesh_dim_names=mesh.mesh_dim_names)
    found.append(said(lambda: Pipeline(stack(Residual), loss_sum, sound, half)))
    return found


def test_later_shapes_and_other_programs_are_told() -> None:
    for shape, program, unsound, none, plan, half in run_ranks(2, later_shapes):
        assert "block 1 does not run on the meta device" in shape[1]
        assert program[1].startswith("program: ranks [1] were given another than rank 0")
        assert unsound[1].startswith("rank 1: ")
        assert none[1].startswith("rank 1: program: a Program is wanted, got Plan; of a plan")
        assert plan[1].startswith("program: a Program is wanted, got Plan; of a plan, zeropp.prog")
        assert half[1].startswith("mesh: wanted pp, dp_replicate, dp_shard of all 2 ranks, got (")
        assert unsound[2] < 1
        assert none[2] < 1

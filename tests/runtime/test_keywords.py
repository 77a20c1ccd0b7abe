"""What blocks are given by name: constants, parts of the batch, and what is made of these."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from support.exactness import Plain
from support.features import (
    SEQ,
    Batch,
    H,
    Masked,
    Packed,
    Residual,
    Segments,
    documents,
    even,
    loss_sum,
    masks,
    segments,
    stack,
)
from support.ranks import run_ranks
from zeropp import Plan, Whole
from zeropp.build import pipeline

B = 4
PLAN = Plan(2, 2, B, "zb-v")


def pairs(seed: int = 0) -> Batch:
    return even(B, torch.Generator().manual_seed(seed))


def made(blocks: list[nn.Module], **options: Any) -> Any:
    return pipeline(blocks, loss_sum, PLAN, **options)


def said(call: Callable[[], object]) -> str:
    with pytest.raises(ValueError, match=":") as raised:
        call()
    return str(raised.value)


def mistakes() -> list[str]:
    """What is given wrongly by name, of which some ranks alone know."""
    pipe = made(stack(Packed), derived={"segments": segments})
    named = [(x, y, documents(x)) for x, y in pairs()]
    other = [*named[1:], (*pairs()[0], {"positions": documents(pairs()[0][0])["positions"]})]
    more = [(x, y, {**names, "colour": x}) for x, y, names in named]
    leads = torch.distributed.get_rank() == 0
    twice = {"positions": torch.zeros(1, dtype=torch.int64)} if leads else None
    steps = [
        lambda: pipe.step(pairs()),
        lambda: pipe.step(other),
        lambda: pipe.step(named, constants=twice),
        lambda: pipe.step(more),
        lambda: pipe.step([(x, y, {**names, "document": 3}) for x, y, names in named]),
    ]
    found = [said(step) for step in steps]
    assert pipe.step(named).loss > 0
    pipe.close()
    rows = {**masks(), "table": torch.zeros(2 * B, SEQ, H)}
    pipe = made(stack(Masked))
    found.append(said(lambda: pipe.step(pairs(), constants=rows if leads else None)))
    pipe.close()
    found.append(said(lambda: made(stack(Masked), derived={"colour": segments})))
    return found


def test_mistakes_are_told_on_every_rank() -> None:
    words = (
        "constants: the blocks ask for document, positions (keyword-only arguments of forward), "
        "the step was given none",
        "batch: all micro-batches must name the same tensors",
        "constants: the blocks ask for document, positions (keyword-only arguments of forward), "
        "the step was given document, positions; each once, as a constant or in the batch",
        "the step was given colour, document, positions",
        "and perhaps a dict of tensors by name, or a list of such; got (Tensor, Tensor, dict)",
        "constants: table has as many rows as the batch has samples, 8; to be cut with it",
        "derived: no block asks for colour (a keyword-only argument)",
    )
    for lines in run_ranks(2, mistakes):
        for line, wanted in zip(lines, words, strict=True):
            assert wanted in line


class Wide(nn.Module):
    """Adds all rows of a constant, of which there are as many as samples in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(H, H)

    def forward(self, x: Tensor, *, rows: Tensor) -> Tensor:
        return x + torch.tanh(self.layer(x)) + rows.mean(0)


def whole() -> tuple[float, float]:
    """Losses with a constant that is marked as one, and plainly."""
    torch.manual_seed(1)
    blocks = stack(Wide)
    plain = Plain(blocks)
    rows = torch.randn(2 * B, H, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        wanted, _ = plain.losses(pairs(), {"rows": rows})
    pipe = made(blocks)
    leads = torch.distributed.get_rank() == 0
    out = pipe.step(pairs(), constants={"rows": Whole(rows)} if leads else None)
    pipe.close()
    return float(out.loss), float(wanted)


def test_a_constant_of_as_many_rows_as_samples_can_be_meant() -> None:
    for got, wanted in run_ranks(2, whole):
        assert got == pytest.approx(wanted, rel=1e-5)


def counted() -> tuple[int, float, float, float]:
    """Calls of a step's function, the losses of evaluation, and the error of predictions."""
    torch.manual_seed(1)
    blocks, calls = stack(Packed), []

    def counting(document: Tensor) -> Segments:
        if not document.is_meta:
            calls.append(document)
        return segments(document)

    x, y = (torch.cat(parts) for parts in zip(*pairs(), strict=True))
    named = {"positions": documents(x)["positions"], "segments": segments(documents(x)["document"])}
    with torch.no_grad():
        wanted, _ = Plain(blocks).losses([(x, y)], named)
        outputs = x
        for block in blocks:
            outputs = block(outputs, **named) if isinstance(block, Packed) else block(outputs)
    pipe = made(blocks, derived={"segments": counting})
    pipe.step((x, y, documents(x)))
    of_step = len(calls)
    loss = pipe.eval((x, y, documents(x)), 2).loss
    found = pipe.predict(x, 2, keywords=documents(x))
    error = 0.0 if found is None else float((torch.cat([f for (f,) in found]) - outputs).norm())
    pipe.close()
    return of_step, float(loss), float(wanted), error


def test_what_is_derived_is_made_once_for_a_microbatch() -> None:
    for calls, loss, wanted, error in run_ranks(2, counted):
        assert calls == B
        assert loss == pytest.approx(wanted, rel=1e-5)
        assert error < 1e-4


class Disturbed(Residual):
    """Adds what was drawn, once for all blocks of a micro-batch, and drops out."""

    def __init__(self) -> None:
        super().__init__(dropout=0.1)

    def forward(self, x: Tensor, *, noise: Tensor, more: Tensor) -> Tensor:
        return super().forward(x + noise * more)


def noise(scale: Tensor) -> Tensor:
    return torch.randn(H) * scale.mean()


def disturbed(plan: Plan) -> tuple[list[float], list[float]]:
    """Losses of two steps with drawn noise, and the norms of their gradients."""
    torch.manual_seed(1)
    blocks = stack(Disturbed)
    torch.manual_seed(torch.distributed.get_rank())
    derived = {"noise": noise, "more": lambda scale: torch.rand(H)}
    pipe = pipeline(blocks, loss_sum, plan, derived=derived, seed=3)
    batch = [(x, y, {"scale": torch.full((len(x), 1), 0.5)}) for x, y in pairs()]
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(2):
        found[0].append(float(pipe.step(batch).loss))
        found[1].append(float(pipe.clip_grad_norm_(1e9)))
    pipe.close()
    return found


def test_what_is_derived_draws_the_same_in_every_layout() -> None:
    ((losses, norms),) = run_ranks(1, disturbed, Plan(1, 1, B, unit_size=1))
    assert losses[0] != losses[1]
    for plan in (PLAN, Plan(1, 2, B, unit_size=2, recompute="full"), Plan(4, 1, B, "1f1b")):
        for found in run_ranks(plan.world_size, disturbed, plan):
            assert found[0] == losses
            assert found[1] == pytest.approx(norms, rel=1e-5)

"""The engine runs the program it is given, whoever wrote it, and refuses what does not fit."""

import dataclasses
from collections.abc import Callable

import pytest
import torch

from support.exactness import Plain, gradient_errors, relative_error
from support.features import even, gpt, loss_sum
from support.ranks import run_ranks
from zeropp.build import pipeline, program_of
from zeropp.ir import Program, format_program, parse
from zeropp.plan import Plan
from zeropp.program import without_collectives
from zeropp.runtime import Pipeline, close_mesh, data_rank, make_mesh

B = 4


def edited_by_hand(D: int) -> str:
    """A program in which, on each rank, two neighbouring W's have changed places."""
    plan = Plan(2, 2, B, unit_size=2, dp_shard=D, max_resident=1)
    text = made = format_program(program_of(plan))
    for first, second in (("0W0", "0W1"), ("3W2", "3W3")):
        text = text.replace(f" {first} ", " @ ").replace(f" {second} ", f" {first} ")
        text = text.replace(" @ ", f" {second} ")
    assert text != made
    return text


def trained_errors(text: str, D: int) -> dict[str, float]:
    batches = [even(B, torch.Generator().manual_seed(d)) for d in range(D)]
    torch.manual_seed(1)
    blocks = gpt(tied=True)
    torch.manual_seed(1)
    plain = Plain(gpt(tied=True))
    plain.losses([pair for batch in batches for pair in batch], {})[0].backward()
    program = parse(text)
    assert isinstance(program, Program)
    pipe = Pipeline(blocks, loss_sum, program, make_mesh(2, 1, D), end_mesh=close_mesh)
    pipe.step(batches[data_rank(pipe.mesh)])
    errors = gradient_errors(plain, pipe)
    pipe.close()
    return errors


@pytest.mark.parametrize("D", [1, 2])
def test_a_program_edited_by_hand_trains_exactly(D: int) -> None:
    text = edited_by_hand(D)
    for errors in run_ranks(2 * D, trained_errors, text, D):
        assert len(errors) > 10
        assert max(errors.values()) < 1e-5


def other_numbers_of_microbatches() -> list[float]:
    """Errors of steps of 4, 3, 4 and 7 micro-batches by one pipeline."""
    torch.manual_seed(1)
    blocks = gpt()
    torch.manual_seed(1)
    plain = Plain(gpt())
    pipe = pipeline(blocks, loss_sum, Plan(2, 2, B, unit_size=4))
    errors = []
    for count in (B, 3, B, 7):
        batch = even(count, torch.Generator().manual_seed(count))
        wanted, _ = plain.losses(batch, {})
        wanted.backward()
        out = pipe.step(batch)
        errors.append(relative_error(out.loss, wanted.detach()))
    errors += gradient_errors(plain, pipe).values()
    pipe.close()
    return errors


def test_a_step_may_have_another_number_of_microbatches() -> None:
    for errors in run_ranks(2, other_numbers_of_microbatches):
        assert len(errors) > 8
        assert max(errors) < 1e-5


def refusals() -> list[str]:
    """What is said to programs that do not fit."""
    plan = Plan(1, 2, B, unit_size=2, dp_shard=2)
    program, mesh = program_of(plan), make_mesh(1, 1, 2)

    def made(program: Program, split: tuple[int, ...] | None = None) -> Callable[[], object]:
        return lambda: Pipeline(gpt(), loss_sum, program, mesh, split=split)

    wrong_order = tuple(order[::-1] for order in program.actions)
    backwards = dataclasses.replace(
        program,
        schedule=dataclasses.replace(
            program.schedule, actions=tuple(o[::-1] for o in program.schedule.actions)
        ),
        actions=wrong_order,
    )
    requests = (
        made(without_collectives(program)),
        made(program_of(Plan(2, 1, B))),
        made(backwards),
        made(dataclasses.replace(program, split=(4, 4)), split=(3, 5)),
        made(dataclasses.replace(program, split=(4, 5))),
    )
    said = []
    for request in requests:
        with pytest.raises(ValueError, match=r".") as refused:
            request()
        said.append(str(refused.value))
    return said


def test_a_program_that_does_not_fit_is_refused() -> None:
    first, second = run_ranks(2, refusals)
    assert first == second
    collectives, ranks, order, twice, blocks = first
    assert "--shard unit, step or microbatch" in collectives
    assert "the program has pp_size=2 ranks, the mesh 1" in ranks
    assert "comes before" in order
    assert "split: the program says (4, 4), got (3, 5)" in twice
    assert "split must list 2 positive sizes that sum to 8 blocks" in blocks


def one_bare_program() -> str:
    program = program_of(Plan(1, 1, 2))
    pipe = Pipeline(gpt(), loss_sum, program, make_mesh(1), end_mesh=close_mesh)
    with pytest.raises(ValueError, match="num_microbatches=2") as refused:
        pipe.step(even(3, torch.Generator()))
    pipe.close()
    return str(refused.value)


def test_a_bare_program_takes_its_own_number_of_microbatches() -> None:
    (said,) = run_ranks(1, one_bare_program)
    assert "a list must hold num_microbatches=2 pairs (inputs, targets), got 3" in said
